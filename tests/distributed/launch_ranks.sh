#!/usr/bin/env bash
# Starts a program on several ranks of this machine with the environment that torchrun gives them: a program of many ranks needs
# neither MPI nor Python then.
#
#   launch_ranks.sh RANKS PROGRAM [ARGUMENTS]
#
# The status is that of the first rank that fails, after which the others are ended. Each rank takes itself for a host of its own
# where NCCL is concerned: so it lets several of them share a GPU.
set -u
ranks=$1
shift
export WORLD_SIZE=$ranks MASTER_ADDR=127.0.0.1 MASTER_PORT="${MASTER_PORT:-$((20000 + RANDOM % 10000))}"
export LOCAL_WORLD_SIZE=$ranks TORCHELASTIC_RUN_ID="launch_ranks.$$"
export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-lo}"

processes=()
end_all() {
  [ "${#processes[@]}" -eq 0 ] || kill -TERM "${processes[@]}" 2>/dev/null
}
trap 'end_all; exit 143' INT TERM
for ((rank = 0; rank < ranks; ++rank)); do
  RANK=$rank LOCAL_RANK=$rank NCCL_HOSTID="host$rank" "$@" &
  processes+=($!)
done

status=0
for ((left = ranks; left > 0; --left)); do
  wait -n
  ended=$?
  if [ "$ended" -ne 0 ] && [ "$status" -eq 0 ]; then
    status=$ended
    # Those that wait for it say so themselves within a second.
    sleep 1
    end_all
  fi
done
exit "$status"
