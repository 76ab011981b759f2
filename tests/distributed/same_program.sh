#!/usr/bin/env bash
# Ranks started from another build of the program are found, on all ranks.
#   same_program.sh MPIEXEC PROGRAM
set -u
mpiexec=$1
program=$2
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
log=$directory/log
stop() { echo "$*"; cat "$log"; exit 1; }
cp "$program" "$directory/same"
cp "$program" "$directory/other"
printf 'x' >>"$directory/other"  # runs like the original

"$mpiexec" --oversubscribe --bind-to none -n 2 "$program" : -n 1 "$directory/same" >"$log" 2>&1 || stop "copies of one program were told apart"
"$mpiexec" --oversubscribe --bind-to none -n 2 "$program" : -n 1 "$directory/other" >"$log" 2>&1
[ $? -eq 2 ] || stop "another program was not noticed, or not by all ranks"
for rank in 0 1 2; do
  grep -q "rank $rank says: ranks run different programs: rank 2 on $(hostname) " "$log" || stop "rank $rank does not name rank 2"
done
