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

exec ctest --test-dir "$build" --output-on-failure -j 2 "$@"
