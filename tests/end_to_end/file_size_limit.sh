#!/usr/bin/env bash
# Checkpoints that cannot be written, on any machine: the shard is larger than the shell lets a file become. Training goes
# on, the previous checkpoint stays, the message says what happened and what was needed; the save at the end fails the run.
. "$(dirname "$0")/common.sh"
prepare_data

# One rank, without a launcher: the shared memory of MPI are files, too.
alone() {  # further flags
  "$xmoe" train "${train_flags[@]}" --expert-model-parallel-size 1 "$@"
}
alone --train-iters 2 --save checkpoint >first.log 2>&1 || { cat first.log; broken "first checkpoint"; }
previous=$(find checkpoint -name '*.safetensors' -exec cksum {} + | sort)
size=$(stat -c %s checkpoint/iter_0000002/*.safetensors)
# Half of a shard, in the blocks of 1024 bytes that the shell counts; all else that a run writes is far smaller.
limit=$((size / 2 / 1024))
status=0
(
  ulimit -f "$limit"
  alone --train-iters 6 --save-interval 2 --load checkpoint --save checkpoint --metrics-file metrics.jsonl
) >second.log 2>&1 || status=$?
grep -q '"iteration": *6' metrics.jsonl || { cat second.log; broken "training did not go on"; }
grep -q 'iteration 4 was not saved: .*File too large' second.log || { cat second.log; broken "no word of the failed save"; }
grep -q 'it needs .* free in .*previous checkpoint stays' second.log ||
  { cat second.log; broken "no word of needed and free space and of what is left"; }
{ [ "$status" -ne 0 ] && [ "$status" -lt 128 ]; } || { cat second.log; broken "status $status of a run that is not saved"; }
[ "$previous" = "$(find checkpoint -name '*.safetensors' -exec cksum {} + | sort)" ] ||
  broken "the previous checkpoint is gone or changed"
[ -z "$(find checkpoint -name '.tmp-*')" ] || broken "the failed saves left files behind"

alone --train-iters 4 --load checkpoint --save checkpoint --metrics-file third.jsonl >third.log 2>&1 ||
  { cat third.log; broken "the previous checkpoint does not load, or no save succeeds without the limit"; }
grep -q '"iteration": *3' third.jsonl || broken "did not resume from the previous checkpoint"
[ -d checkpoint/iter_0000004 ] || broken "no checkpoint of iteration 4"
echo "passed"
