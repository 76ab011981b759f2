#!/usr/bin/env bash
# From text to samples; training that stops and resumes is bit for bit the training that never stopped.
. "$(dirname "$0")/common.sh"
prepare_data

train --save whole --metrics-file whole.jsonl >whole.log 2>&1 || { cat whole.log; broken "training"; }
grep -q 'iteration *6/ *6 |' whole.log || { cat whole.log; broken "the iteration line of iteration 6 is missing"; }
for key in iteration consumed_samples consumed_tokens lm_loss aux_loss z_loss learning_rate grad_norm tokens_per_second \
  tflops_per_device dropped_fraction expert_load_max_over_mean step_ms; do
  grep -q "\"$key\"" whole.jsonl || broken "metrics file: no $key"
done

train --save parts --metrics-file parts.jsonl --exit-interval 3 >parts.log 2>&1 || { cat parts.log; broken "first half"; }
grep -q 'iteration *4/' parts.log && broken "--exit-interval 3 did not end the training"
train --save parts --load parts --metrics-file parts.jsonl >>parts.log 2>&1 || { cat parts.log; broken "second half"; }
timeless whole.jsonl >whole.txt
timeless parts.jsonl >parts.txt
diff whole.txt parts.txt || broken "metrics differ after resuming"
(cd whole && find . -name '*.safetensors' -exec cksum {} + | sort -k 3) | grep 6 >whole.sums
(cd parts && find . -name '*.safetensors' -exec cksum {} + | sort -k 3) | grep 6 >parts.sums
grep 6 whole.sums >/dev/null || broken "no tensors were saved"
last=$(basename "$(find whole -mindepth 1 -maxdepth 1 -type d | sort | tail -1)")
for file in $(cd "whole/$last" && find . -name '*.safetensors'); do
  cmp "whole/$last/$file" "parts/$last/$file" || broken "checkpoint differs after resuming"
done

# Another layout carries on from the same checkpoint: one rank, all experts.
"$xmoe" train "${train_flags[@]}" --expert-model-parallel-size 1 --train-iters 7 --load whole --metrics-file one.jsonl \
  >one.log 2>&1 || { cat one.log; broken "one rank does not load the checkpoint of two"; }
grep -q '"iteration": *7' one.jsonl || broken "one rank did not train iteration 7"
grep -q '"iteration": *6' one.jsonl && broken "one rank trained iteration 6 again"

"$xmoe" eval --load whole --data-path heldout --output eval.json >eval.log 2>&1 || { cat eval.log; broken "eval"; }
mpirun -n 2 "$xmoe" eval --load whole --data-path heldout --expert-model-parallel-size 2 --output eval2.json \
  >>eval.log 2>&1 || { cat eval.log; broken "eval on two ranks"; }
bits=$(sed -n 's/.*"bits_per_byte": *\([0-9.eE+-]*\).*/\1/p' eval.json)
bits2=$(sed -n 's/.*"bits_per_byte": *\([0-9.eE+-]*\).*/\1/p' eval2.json)
# A model that knows nothing needs log2(320) bits for a token of two bytes or so; one that knows the text, below one.
awk -v a="$bits" -v b="$bits2" 'BEGIN { exit !(a > 0.2 && a < 8 && (a - b < 1e-4 * a) && (b - a < 1e-4 * a)) }' ||
  broken "bits per byte: $bits on one rank, $bits2 on two"

"$xmoe" generate --load whole --prompt "the king" --max-new-tokens 20 --seed 3 >first.txt 2>generate.log ||
  { cat generate.log; broken "generate"; }
echo -n "the king" | "$xmoe" generate --load whole --max-new-tokens 20 --seed 3 >second.txt 2>>generate.log ||
  broken "generate from standard input"
grep -q "the king" first.txt || broken "the prompt is not in the output"
cmp first.txt second.txt || broken "the same seed gave another text"
echo "passed"
