#!/usr/bin/env bash
# Starts a program on several ranks of this machine with the environment that torchrun gives them: a program of many ranks needs
# neither MPI nor Python then.
#
#   launch_ranks.sh RANKS PROGRAM [ARGUMENTS]
#
# The status is that of the first rank that fails; the others are then asked to end, and made to after some seconds. If there are more
# ranks than GPUs, each takes itself for a host of its own where NCCL is concerned, which lets several of them share one.
set -u
ranks=$1
shift
export WORLD_SIZE=$ranks MASTER_ADDR=127.0.0.1 MASTER_PORT="${MASTER_PORT:-$((20000 + RANDOM % 10000))}"
export LOCAL_WORLD_SIZE=$ranks TORCHELASTIC_RUN_ID="launch_ranks.$$"
export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-lo}"

if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
  gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '^\(GPU-\|[0-9]\)')
else
  gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ')
fi

processes=()
trap 'kill -KILL "${processes[@]}" 2>/dev/null; exit 143' INT TERM
for ((rank = 0; rank < ranks; ++rank)); do
  host=one
  [ "$ranks" -le "$gpus" ] || host=$rank
  RANK=$rank LOCAL_RANK=$rank NCCL_HOSTID="host-$host" "$@" &
  processes+=($!)
done

status=0
for ((left = ranks; left > 0; --left)); do
  wait -n
  status=$?
  [ "$status" -eq 0 ] || break
done
[ "$status" -ne 0 ] || exit 0

sleep 1  # those that wait for the one that failed say so themselves
kill -TERM "${processes[@]}" 2>/dev/null
for ((tenths = 50; tenths > 0; --tenths)); do
  [ -n "$(jobs -rp)" ] || break
  sleep 0.1
done
kill -KILL "${processes[@]}" 2>/dev/null
wait
exit "$status"
