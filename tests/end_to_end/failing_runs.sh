#!/usr/bin/env bash
# Trainings that end before their time keep what was learnt, and say once why they ended.
. "$(dirname "$0")/common.sh"
prepare_data

# ended NAME PATTERNS... -- further flags of a training: as refused, whether or not it has trained.
ended() {
  local expected=()
  while [ "$1" != -- ]; do
    expected+=("$1")
    shift
  done
  refused "${expected[@]}" -- mpirun -n 2 "$xmoe" train "${common_flags[@]}" "${@:2}"
}

overwrite_token() {  # NAME, index of the token: one that no tokenizer has
  printf '\xff\x7f' | dd of="$1.bin" bs=2 seek="$2" conv=notrunc status=none
}

copy_data() {
  cp data.bin "$1.bin"
  cp data.idx "$1.idx"
}

tokens=$(($(stat -c %s data.bin) / 2))
with_tokenizer=(--tokenizer tokenizer.json --split 80,20,0)

# A bad token that the training does not meet, and the validation does.
copy_data late
overwrite_token late $((tokens - 3))
ended last_validation 'token id 32767' -- "${with_tokenizer[@]}" --data-path late --eval-iters 100 --eval-interval 100 \
  --train-iters 4 --save last_validation
[ -d last_validation/iter_0000004 ] || broken "the validation at the end took the trained model with it"
ended validation 'token id 32767' -- "${with_tokenizer[@]}" --data-path late --eval-iters 100 --eval-interval 2 \
  --train-iters 4 --save-interval 2 --save validation
[ -d validation/iter_0000002 ] || broken "a validation took the trained model with it"

# One that the training meets after some iterations: what came before is saved, and goes on with better data.
copy_data middle
overwrite_token middle $((tokens / 2))
ended middle 'rank [01]: middle.*token id 32767' 'saved iteration [1-9]' -- "${with_tokenizer[@]}" --data-path middle \
  --train-iters 40 --eval-iters 0 --save middle_run
saved=$(cat middle_run/latest)
train --train-iters $((10#${saved#iter_} + 1)) --split 80,20,0 --load middle_run --eval-iters 0 >middle_on.log 2>&1 ||
  { cat middle_on.log; broken "the checkpoint before the bad token does not load"; }

# Bad tokens in the samples of both ranks.
copy_data everywhere
for ((i = 0; i < tokens; i += 16)); do overwrite_token everywhere "$i"; done
ended everywhere 'rank 0: everywhere.*token id' 'rank 1: everywhere.*token id' -- "${with_tokenizer[@]}" \
  --data-path everywhere --save everywhere_run

# Weights that one update throws out of range: the third iteration without a finite loss is the last.
ended not_finite 'layer|embedding|norm' 'saved iteration 3' -- "${with_tokenizer[@]}" --data-path data --lr 1e30 --min-lr 1e30 \
  --lr-warmup-iters 0 --train-iters 9 --eval-iters 0 --save not_finite
grep -q -- '-nan' not_finite.log && broken "a NaN has a sign"

# Places that cannot be written to are met before the first iteration, not after the last.
copy_data good
no_tokenizer=(--data-path good --vocab-size 320 --split 80,20,0)
for flag in --save --metrics-file --trace; do
  ended "${flag#--}" "$flag text\.txt/below cannot be" -- "${no_tokenizer[@]}" "$flag" text.txt/below
  grep -q 'iteration  ' "${flag#--}.log" && broken "$flag: found out after training"
done
ended save_in_proc '/proc/sys' -- "${no_tokenizer[@]}" --save /proc/sys

# No tokenizer: losses, but no bytes to count.
mpirun -n 2 "$xmoe" train "${common_flags[@]}" "${no_tokenizer[@]}" --save no_tokenizer >no_tokenizer.log 2>&1 ||
  { cat no_tokenizer.log; broken "training without a tokenizer"; }
grep -q 'validation loss at iteration 3' no_tokenizer.log || { cat no_tokenizer.log; broken "nothing was validated"; }
grep -q 'bits per byte' no_tokenizer.log && broken "bytes of tokens without a tokenizer"
grep -q '| ETA: .* |$' no_tokenizer.log || { cat no_tokenizer.log; broken "no time left in the iteration line"; }
"$xmoe" eval --load no_tokenizer --data-path heldout >no_tokenizer_eval.log 2>&1 ||
  { cat no_tokenizer_eval.log; broken "evaluation without a tokenizer"; }
grep -q '^loss: .*nats' no_tokenizer_eval.log || { cat no_tokenizer_eval.log; broken "no loss"; }
grep -q 'bits per byte' no_tokenizer_eval.log && broken "bytes of tokens without a tokenizer, in eval"

# The end of the line that a shell puts behind a prompt is no part of it.
"$xmoe" generate --load middle_run --prompt "the king" --max-new-tokens 5 >flag.txt 2>generate.log
echo "the king" | "$xmoe" generate --load middle_run --max-new-tokens 5 >stdin.txt 2>>generate.log
cmp flag.txt stdin.txt || broken "a prompt on standard input is another one"

# A signal without --save.
"$xmoe" train "${common_flags[@]}" "${no_tokenizer[@]}" --expert-model-parallel-size 1 --train-iters 100000 --eval-iters 0 \
  >signal.log 2>&1 &
training=$!
begun=
for ((i = 0; i < 600; ++i)); do
  grep -q 'iteration  ' signal.log && begun=yes && break
  sleep 0.1
done
[ -n "$begun" ] || { kill -KILL "$training"; cat signal.log; broken "no iteration within a minute"; }
kill -TERM "$training"
wait "$training" || { cat signal.log; broken "exit status after SIGTERM"; }
grep -q 'SIGTERM; without --save nothing is saved' signal.log || { tail -3 signal.log; broken "the end is not explained"; }
echo "passed"
