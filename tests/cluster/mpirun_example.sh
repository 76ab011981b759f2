#!/usr/bin/env bash
# The mpirun example: trains, carries on, and refuses a text other than the one that its directory was made of.
#
#   tests/cluster/mpirun_example.sh XMOE DIRECTORY
sources="$(realpath "$(dirname "$0")/../..")"
. "$(dirname "$0")/../end_to_end/common.sh"
prepare_data
work="$PWD"
export XMOE="$xmoe" OUT="$work/out"
cd "$sources"
flags=(--num-layers 2 --hidden-size 32 --num-attention-heads 4 --seq-length 32 --num-experts 8 --global-batch-size 2
  --micro-batch-size 1 --lr-warmup-iters 1 --log-interval 1 --eval-iters 0)
# The text is small: its tokenizer is made beforehand, with a vocabulary that it can fill.
mkdir "$OUT"
cp "$work/tokenizer.json" "$OUT/tokenizer.json"

example() { examples/train_mpirun.sh "$@" >"$work/log" 2>&1; }
example "$work/text.txt" 2 "${flags[@]}" --train-iters 2 || { cat "$work/log"; broken "training"; }
example "$work/text.txt" 2 "${flags[@]}" --train-iters 3 || { cat "$work/log"; broken "carrying on"; }
[ "$(grep -c '"lm_loss"' "$OUT/metrics.jsonl")" -eq 3 ] ||
  { cat "$work/log"; broken "expected iterations 1 to 3, and no more: it does not carry on"; }

status=0
example "$work/heldout.txt" 2 "${flags[@]}" --train-iters 4 || status=$?
[ "$status" -eq 2 ] || { cat "$work/log"; broken "another text: exit code $status, expected 2"; }
grep -q "was made from another text" "$work/log" || { cat "$work/log"; broken "another text is not named"; }
OUT="$work/elsewhere"
mkdir "$OUT"
cp "$work/tokenizer.json" "$OUT/tokenizer.json"
example "$work/heldout.txt" 2 "${flags[@]}" --train-iters 1 || { cat "$work/log"; broken "another text elsewhere"; }
example "$work/text.txt" many && broken "'many' ranks were accepted"
example "$work/nothing.txt" && broken "a text that is not there was accepted"
echo "passed"
