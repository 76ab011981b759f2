#!/usr/bin/env bash
# One of two ranks is killed, or hangs, in place of joining a collective of tensors on GPUs, for which no host waits in a call: the
# job ends soon, with an exit status, and the other says what it waited for.
#   killed_device_collective.sh PROGRAM LAUNCHER [ARGUMENTS OF THE LAUNCHER, which start two ranks]
set -u
program=$1
launcher=("${@:2}")
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export XMOE_TEST_COLLECTIVES
stop() { echo "$*"; cat "$log"; exit 1; }

# ends BACKEND OPERATION HOW MESSAGE
ends() {
  local status
  XMOE_TEST_COLLECTIVES=$1
  timeout 120 "${launcher[@]}" "$program" "$2" world "$3" >"$log" 2>&1
  status=$?
  [ "$status" -ne 77 ] || { cat "$log"; exit 77; }
  [ "$status" -ne 0 ] || stop "$*: the job succeeded"
  [ "$status" -ne 124 ] || stop "$*: the job did not end"
  # Hosts queue collectives without waiting: the rank that is killed may not have taken part in those before.
  grep -Eq "rank 0: error: $4 in ${2#start_} of the group world \(layer [0-2]\)" "$log" || stop "$*: rank 0 does not say where it waited"
}
for operation in all_reduce all_to_all_v start_reduce_scatter; do
  ends nccl "$operation" killed 'rank 1 .* has died while this rank waits'
done
ends nccl exchange hangs 'has been waiting for [0-9.]+ s'
ends staged exchange killed 'rank 1 .* has died while this rank waits'
