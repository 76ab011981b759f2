#!/usr/bin/env bash
# Every preset is read, and what --print-config shows of it is what the file says.
configs="$(realpath "$(dirname "$0")/../../configs")"
. "$(dirname "$0")/common.sh"

presets=0
for preset in "$configs"/*/*.toml; do
  name=$(basename "$(dirname "$preset")")_$(basename "$preset")
  "$xmoe" train --config "$preset" --print-config >"$name" 2>"$name.log" || { cat "$name.log"; broken "$preset"; }
  # Every setting of the file is in effect; numbers may be written in another way.
  sed -E 's/ *#.*//; /^ *$/d; /^\[/d; s/ *= */ /; s/([0-9])_/\1/g' "$preset" >settings.txt
  awk 'NR == FNR { found[$1] = $2; next } !($1 in found) || found[$1] != $2 && ($2 !~ /^[0-9]/ || found[$1] + 0 != $2 + 0) { print; bad = 1 }
       END { exit bad }' <(sed -E 's/ *#.*//; s/ *= */ /' "$name") settings.txt || broken "$preset: not in effect"
  presets=$((presets + 1))
done
[ "$presets" -ge 7 ] || broken "$presets presets, expected seven"
echo "passed"
