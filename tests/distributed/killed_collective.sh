#!/usr/bin/env bash
# One of eight ranks is killed, or hangs, in place of joining a collective: the job ends soon, with an exit status, and the others say
# where they waited. A rank that is merely late after all were asked to stop is waited for.
#   killed_collective.sh PROGRAM LAUNCHER [ARGUMENTS OF THE LAUNCHER, which start eight ranks]
set -u
program=$1
launcher=("${@:2}")
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The limit is far above what a loaded machine needs, and far below for ever; 124 says that it was reached.
ranks() { timeout 120 "${launcher[@]}" "$program" "$@" >"$log" 2>&1; }
stop() { echo "$*"; cat "$log"; exit 1; }

# killed OPERATION GROUP WAITING RANKS: as the operation calls itself, and those of the group that are left. The one that is killed
# may be layers ahead of them: it goes on when they have sent to it, whether or not they are done themselves.
killed() {
  local status ahead='[12]'
  [ "$1" != broadcast ] || ahead='[0-2]'  # its root waits for nobody
  ranks "$1" "$2" killed
  status=$?
  [ "$status" -ne 0 ] || stop "$1, $2: a rank was killed and the job succeeded"
  [ "$status" -ne 124 ] || stop "$1, $2: the job did not end"
  grep -Eq "rank $4: error: rank 7 .* has died while this rank waits in $3 of the group $2 \(layer $ahead\)" "$log" ||
    stop "$1, $2: nobody says where it waited"
}
for operation in all_reduce all_gather reduce_scatter broadcast all_to_all_v exchange barrier start_reduce_scatter \
  start_all_gather; do
  killed "$operation" world "${operation#start_}" '[0-6]'
done
for operation in all_reduce exchange start_reduce_scatter; do
  killed "$operation" half "${operation#start_}" '[4-6]'
done

ranks all_gather world hangs
status=$?
[ "$status" -ne 0 ] && [ "$status" -ne 124 ] || stop "a rank hung: status $status"
grep -Eq "rank [0-6]: error: has been waiting for [0-9.]+ s in all_gather of the group world \(layer 2\)" "$log" ||
  stop "a rank hung: nobody says where it waited"
if grep -q "rank 7: error" "$log"; then stop "the rank that hung takes itself for one that waits"; fi

ranks exchange world late || stop "a rank that was late was not waited for"
if grep -q "has died while\|has probably died" "$log"; then stop "a rank that was late is taken for dead"; fi
