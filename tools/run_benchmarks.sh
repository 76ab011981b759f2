#!/usr/bin/env bash
# Runs the benchmarks of a build directory on all cores: first those of one process, then the dispatchers over ranks of one core each.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
build="$1"
rows="$build/bench.json"

OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(nproc)}" "$build/xmoe_bench" --json "$rows"
OMP_NUM_THREADS=1 mpirun -n 2 --oversubscribe "$build/xmoe_dispatch_bench" --json "$rows"
echo "rows are in $rows"
