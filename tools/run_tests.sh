#!/usr/bin/env bash
# Runs the tests of a build directory; further arguments go to ctest.
#
#   tools/run_tests.sh build [-L unit] [-R name] ...
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh

build="$1"
shift
# Two threads each, so that parallel code really runs in parallel, on small machines too.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"  # tests share the cores: threads that wait must not spin

# Open MPI and the OpenMP runtime keep memory until the process ends: not ours to free. Everything else counts.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1}"
export LSAN_OPTIONS="${LSAN_OPTIONS:-suppressions=$PWD/tools/leaks.supp:print_suppressions=0}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1:halt_on_error=1}"

rm -f "$build/Testing/Temporary/LastTest.log"  # ctest leaves that of an earlier run when there is nothing to run
status=0
ctest --test-dir "$build" --output-on-failure -j 2 "$@" || status=$?

# ctest names the tests that were skipped and keeps to itself why. Scripts say it in one line, GoogleTest in the line behind
# a place.
if [ -e "$build/Testing/Temporary/LastTest.log" ]; then
  awk '
    function skipped(reason) {
      if (name == "") return
      if (!any++) print "\nSkipped, and why:"
      print "  " name ": " reason
      name = ""
    }
    /^[0-9]+\/[0-9]+ Testing: / { name = $3; behind_place = 0; next }
    /^Command: / { next }
    behind_place { skipped($0); behind_place = 0; next }
    /: Skipped$/ { behind_place = 1; next }
    /cannot run here: / || /^skipped: / { skipped($0) }
  ' "$build/Testing/Temporary/LastTest.log"
fi
exit "$status"
