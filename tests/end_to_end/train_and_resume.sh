#!/usr/bin/env bash
# From text to samples; training that stops and resumes is bit for bit the training that never stopped, and another
# layout carries on from the same checkpoint. In f32, and in bf16 and fp16 with their f32 masters.
. "$(dirname "$0")/common.sh"
prepare_data


agree() {  # TOLERANCE A B: relative
  awk -v tolerance="$1" -v a="$2" -v b="$3" 'BEGIN { d = a - b; exit !(a > 0 && d < tolerance * a && -d < tolerance * a) }'
}

bits_per_byte() {  # REPORT
  sed -n 's/.*"bits_per_byte": *\([0-9.eE+-]*\).*/\1/p' "$1"
}

story() {  # NAME TOLERANCE OF ANOTHER LAYOUT, further flags
  local name="$1" tolerance="$2"
  shift 2
  mkdir "$name"

  train "$@" --save "$name/whole" --metrics-file "$name/whole.jsonl" >"$name/whole.log" 2>&1 ||
    { cat "$name/whole.log"; broken "$name: training"; }
  grep -q 'iteration *6/ *6 |' "$name/whole.log" ||
    { cat "$name/whole.log"; broken "$name: the iteration line of iteration 6 is missing"; }
  local key
  for key in iteration consumed_samples consumed_tokens lm_loss aux_loss z_loss learning_rate grad_norm \
    tokens_per_second tflops_per_device dropped_fraction expert_load_max_over_mean step_ms; do
    grep -q "\"$key\"" "$name/whole.jsonl" || broken "$name: metrics file: no $key"
  done

  train "$@" --save "$name/parts" --load "$name/parts" --metrics-file "$name/parts.jsonl" --exit-interval 3 \
    >"$name/parts.log" 2>&1 || { cat "$name/parts.log"; broken "$name: first half"; }
  grep -q 'starts from the beginning' "$name/parts.log" ||
    { cat "$name/parts.log"; broken "$name: no word of --load without a checkpoint"; }
  grep -q 'iteration *4/' "$name/parts.log" && broken "$name: --exit-interval 3 did not end the training"
  train "$@" --save "$name/parts" --load "$name/parts" --metrics-file "$name/parts.jsonl" >>"$name/parts.log" 2>&1 ||
    { cat "$name/parts.log"; broken "$name: second half"; }
  timeless "$name/whole.jsonl" >"$name/whole.txt"
  timeless "$name/parts.jsonl" >"$name/parts.txt"
  diff "$name/whole.txt" "$name/parts.txt" || broken "$name: metrics differ after resuming"
  local compared=0 file
  for file in "$name"/whole/iter_0000006/*.safetensors; do
    cmp "$file" "$name/parts/iter_0000006/$(basename "$file")" || broken "$name: checkpoint differs after resuming"
    compared=$((compared + 1))
  done
  [ "$compared" -eq 2 ] || broken "$name: compared $compared shards, expected one of each rank"

  # One rank with all experts goes the way of the two. It takes the samples of both in one micro-batch, since the
  # auxiliary loss is that of a micro-batch.
  train "$@" --train-iters 9 --load "$name/whole" --metrics-file "$name/two.jsonl" >"$name/two.log" 2>&1 ||
    { cat "$name/two.log"; broken "$name: two ranks do not carry on"; }
  "$xmoe" train "${train_flags[@]}" "$@" --expert-model-parallel-size 1 --micro-batch-size 4 --train-iters 9 \
    --load "$name/whole" --metrics-file "$name/one.jsonl" >"$name/one.log" 2>&1 ||
    { cat "$name/one.log"; broken "$name: one rank does not load the checkpoint of two"; }
  compared=0
  local iteration loss norm other_iteration other_loss other_norm
  while read -r iteration loss norm other_iteration other_loss other_norm; do
    compared=$((compared + 1))
    { [ "$iteration" = $((6 + compared)) ] && [ "$iteration" = "$other_iteration" ]; } ||
      broken "$name: iterations $iteration and $other_iteration, expected $((6 + compared))"
    agree "$tolerance" "$loss" "$other_loss" ||
      broken "$name: loss of iteration $iteration: $loss on two ranks, $other_loss on one"
    agree "$tolerance" "$norm" "$other_norm" ||
      broken "$name: gradient norm of iteration $iteration: $norm on two ranks, $other_norm on one"
  done < <(paste -d ' ' <(course "$name/two.jsonl") <(course "$name/one.jsonl"))
  [ "$compared" -eq 3 ] || broken "$name: compared $compared iterations, expected 7 to 9"

  "$xmoe" eval --load "$name/whole" --data-path heldout --output "$name/eval.json" >"$name/eval.log" 2>&1 ||
    { cat "$name/eval.log"; broken "$name: eval"; }
  mpirun -n 2 "$xmoe" eval --load "$name/whole" --data-path heldout --expert-model-parallel-size 2 \
    --output "$name/eval2.json" >>"$name/eval.log" 2>&1 || { cat "$name/eval.log"; broken "$name: eval on two ranks"; }
  local bits bits2
  bits=$(bits_per_byte "$name/eval.json")
  bits2=$(bits_per_byte "$name/eval2.json")
  # A model that knows nothing needs log2(320) bits for a token of two bytes or so; one that knows the text, below one.
  awk -v a="$bits" 'BEGIN { exit !(a > 0.2 && a < 8) }' || broken "$name: $bits bits per byte"
  agree "$tolerance" "$bits" "$bits2" || broken "$name: bits per byte: $bits on one rank, $bits2 on two"
}

story f32 1e-5
# Sums in another order may round to the next bf16 number, 2^-8 apart; means over a batch move by less.
story bf16 4e-3 --bf16
# The loss scale doubles in iteration 5: the training that stops after 3 must know how far its window was.
story fp16 2e-3 --fp16 --initial-loss-scale 262144 --loss-scale-window 5
grep -q '"iteration": *5,.*"loss_scale": *524288' fp16/whole.jsonl || broken "the loss scale has not doubled after five iterations"
diff f32/whole.txt bf16/whole.txt >difference.txt && broken "--bf16 changed nothing"

# Weights alone, of which nothing is left to the seed: a step of next to no length leaves them as they are.
train --load f32/whole --finetune --seed 99 --lr 1e-12 --min-lr 0 --train-iters 1 --save fine --metrics-file fine.jsonl >fine.log 2>&1 ||
  { cat fine.log; broken "--finetune"; }
grep -q '"iteration": *1,' fine.jsonl || { cat fine.jsonl; broken "--finetune does not begin with iteration 1"; }
"$xmoe" eval --load fine --data-path heldout --output fine.json >>fine.log 2>&1 || { cat fine.log; broken "eval of --finetune"; }
# But for the experts' biases, which the step moves.
agree 1e-3 "$(bits_per_byte f32/eval.json)" "$(bits_per_byte fine.json)" || broken "--finetune begins with other weights"
# Weights and the place in the training: the loss of the next iteration is that of the training which goes on.
train --load f32/whole --no-load-optim --train-iters 7 --metrics-file fresh.jsonl >fresh.log 2>&1 ||
  { cat fresh.log; broken "--no-load-optim"; }
diff <(course f32/two.jsonl | head -1 | cut -d ' ' -f 1,2) <(course fresh.jsonl | cut -d ' ' -f 1,2) ||
  broken "--no-load-optim: another iteration or loss"

"$xmoe" generate --load f32/whole --prompt "the king" --max-new-tokens 20 --seed 3 >first.txt 2>generate.log ||
  { cat generate.log; broken "generate"; }
echo -n "the king" | "$xmoe" generate --load f32/whole --max-new-tokens 20 --seed 3 >second.txt 2>>generate.log ||
  broken "generate from standard input"
grep -q "the king" first.txt || broken "the prompt is not in the output"
cmp first.txt second.txt || broken "the same seed gave another text"
echo "passed"
