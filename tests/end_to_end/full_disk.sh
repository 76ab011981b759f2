#!/usr/bin/env bash
# A disk that is full at a checkpoint: training goes on, the previous checkpoint stays, the message says how much was
# needed and how much is free. Needs a small file system of its own; skipped where mounting one is not allowed (there,
# file_size_limit.sh has the same story without the disk).
. "$(dirname "$0")/common.sh"

mkdir disk
if ! mount -t tmpfs -o size=64m xmoe_test disk 2>mount.log; then
  echo "skipped: cannot mount a small file system here ($(cat mount.log))"
  exit 77
fi
trap 'umount "$PWD/disk"' EXIT
prepare_data

train --train-iters 2 --save disk/checkpoint >first.log 2>&1 || { cat first.log; broken "first checkpoint"; }
previous=$(find disk/checkpoint -name '*.safetensors' -exec cksum {} + | sort)
# Fill the disk but for less than one more checkpoint.
dd if=/dev/zero of=disk/filler bs=1k count=$(($(df --output=avail -k disk | tail -1) - 16)) 2>dd.log
train --train-iters 6 --save-interval 2 --load disk/checkpoint --save disk/checkpoint --metrics-file metrics.jsonl \
  >second.log 2>&1 && status=0 || status=$?
grep -q '"iteration": *6' metrics.jsonl || { cat second.log; broken "training did not go on"; }
grep -qi 'free' second.log && grep -qi 'need' second.log || { cat second.log; broken "no word of needed and free space"; }
[ "$previous" = "$(find disk/checkpoint -name '*.safetensors' -exec cksum {} + | sort)" ] ||
  broken "the previous checkpoint is gone or changed"

rm disk/filler
train --train-iters 7 --load disk/checkpoint --metrics-file third.jsonl >third.log 2>&1 ||
  { cat third.log; broken "the previous checkpoint does not load (status of the full run: $status)"; }
grep -q '"iteration": *3' third.jsonl || broken "did not resume from the previous checkpoint"
echo "passed"
