#!/usr/bin/env bash
# Checks format, the rules of the house (check_layers.py) and clang-tidy. Needs configured build directories.
#
#   tools/lint.sh build [build-cuda] ...
set -euo pipefail
cd "$(dirname "$0")/.."
status=0

mapfile -t formatted < <(find src tests bench -name '*.cpp' -o -name '*.h' -o -name '*.cu' | sort)
if clang-format --dry-run -Werror "${formatted[@]}"; then
  echo "clang-format: ${#formatted[@]} files"
else
  echo "clang-format: run  clang-format -i  on the files named above"
  status=1
fi

python3 tools/check_layers.py || status=1

# Tests and benchmarks are left out: most of the time would go into the macros of their frameworks. A file is read
# as the first of the given builds compiles it, on its own or in a batch, for which headers are read once; alternatives
# that none of them compiles cannot be read.
mapfile -t checked < <(printf '%s\n' "${formatted[@]}" | grep '^src/.*\.cpp$' | grep -Ev '_(test|bench)\.cpp$' |
  python3 tools/compiled_in.py "$@")
[ ${#checked[@]} -gt 0 ] || status=1
start=$SECONDS
# One compilation per process: they differ in cost, and the next one goes to whoever is free. The count of suppressed
# warnings is no news; what remains on standard error is only shown with a failure's own output.
check_one() {
  local build file out
  read -r build file <<<"$1"
  # The compiler's warnings are not clang's, and builds may lie elsewhere than the settings.
  if ! out=$(clang-tidy --quiet --config-file=.clang-tidy --extra-arg=-Wno-unknown-warning-option -p "$build" "$file" 2>/dev/null); then
    printf '%s\n' "clang-tidy: $file" "$out"
    return 1
  fi
}
export -f check_one
if printf '%s\n' "${checked[@]}" | xargs -P "$(nproc)" -I {} bash -c 'check_one "$1"' _ {}; then
  echo "clang-tidy: ${#checked[@]} compilations in $((SECONDS - start)) s"
else
  status=1
fi

[ "$status" -eq 0 ] && echo "lint: passed" || echo "lint: failed"
exit "$status"
