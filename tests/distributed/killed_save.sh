#!/usr/bin/env bash
# Kills one of four ranks at every stage of a save; a whole checkpoint must be there afterwards, loadable by two ranks, and the next
# save must succeed and leave nothing behind.
#   killed_save.sh MPIEXEC PROGRAM
set -u
mpiexec=$1
program=$2
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
ranks() { "$mpiexec" -n "$1" --oversubscribe --bind-to none "$program" "${@:2}" 2>"$root.log"; }
stop() { echo "$*"; cat "$root.log"; rm -f "$root.log"; exit 1; }

iteration=1
ranks 4 save "$root/run" $iteration || stop "the first save failed"
# Stages 0 begun, 1 shard written, 2 manifest written, 3 renamed, 4 latest replaced. The other ranks go on until the launcher ends
# them, so that a killed save may still complete.
for stage in 0 1 2 3 4; do
  least=$iteration
  iteration=$((iteration + 1))
  if ranks 4 save "$root/run" $iteration $stage; then stop "stage $stage: no rank was killed"; fi
  ranks 2 check "$root/run" $((stage == 4 ? iteration : least)) $iteration || stop "stage $stage: no whole checkpoint"
  iteration=$((iteration + 1))
  ranks 4 save "$root/run" $iteration || stop "stage $stage: the next save failed"
  ranks 1 check "$root/run" $iteration $iteration || stop "stage $stage: the next save is not whole"
  left=$(find "$root/run" -name '.tmp-*')
  [ -z "$left" ] || stop "stage $stage: left behind: $left"
done
rm -f "$root.log"
