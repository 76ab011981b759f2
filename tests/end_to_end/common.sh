# What the scripts of this folder share; sourced with the program and a directory to work in as arguments.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../../tools/environment.sh"
export OMP_NUM_THREADS=1  # results must not depend on the machine, and tests share the cores

xmoe="$(realpath "$1")"
rm -rf "$2"
mkdir -p "$2"
cd "$2"

broken() {
  echo "FAILED: $*" >&2
  exit 1
}

# Text that a model can learn something from: sentences of a small grammar, a document per block. The same every time.
make_text() {  # DOCUMENTS FILE
  awk -v documents="$1" 'BEGIN {
    split("the a every one no", determiner); split("king river shepherd stone city servant", noun)
    split("saw built loved left found", verb)
    state = 7
    for (d = 1; d <= documents; ++d) {
      if (d > 1) print ""
      for (s = 0; s < 6; ++s)
        print determiner[pick(5)], noun[pick(6)], verb[pick(5)], determiner[pick(5)], noun[pick(6)] "."
    }
  }
  function pick(n) { state = (state * 1103515245 + 12345) % 2147483648; return int(state / 65536) % n + 1 }' >"$2"
}

prepare_data() {  # [DOCUMENTS]
  make_text "${1:-60}" text.txt
  make_text 9 heldout.txt
  "$xmoe" tokenizer train --input text.txt --vocab-size 320 --output tokenizer.json 2>prepare.log
  "$xmoe" data prepare --input text.txt --split-documents blank-line --tokenizer tokenizer.json --output-prefix data \
    2>>prepare.log
  "$xmoe" data prepare --input heldout.txt --split-documents blank-line --tokenizer tokenizer.json --output-prefix heldout \
    2>>prepare.log
}

# A model that trains in a second and still has every part: a dense layer, grouped queries, a shared expert, a router
# bias, accumulation of gradients.
model_flags=(--num-layers 2 --hidden-size 32 --ffn-hidden-size 48 --num-attention-heads 4 --num-query-groups 2
  --seq-length 32 --normalization RMSNorm --swiglu --num-experts 8 --moe-router-topk 3 --moe-ffn-hidden-size 16
  --moe-shared-expert-intermediate-size 24 --moe-first-k-dense 1 --moe-router-score-function sigmoid
  --moe-router-norm-topk-prob --moe-router-enable-expert-bias --moe-aux-loss-coeff 0.001)
common_flags=("${model_flags[@]}" --micro-batch-size 2 --global-batch-size 8 --train-iters 6 --lr 3e-3 --min-lr 3e-4 --lr-decay-style cosine --lr-warmup-iters 1 --log-interval 1 --eval-interval 3 --eval-iters 1 --expert-model-parallel-size 2)
train_flags=("${common_flags[@]}" --data-path data --tokenizer tokenizer.json)

train() {  # further flags
  mpirun -n 2 "$xmoe" train "${train_flags[@]}" "$@"
}

# The metrics without what depends on the clock.
timeless() {
  sed -E 's/"(step_ms|tokens_per_second|tflops_per_device|tflops_per_device_xmoe|elapsed_seconds|time)": ?[^,}]*,? ?//g' "$1"
}

# Iteration, loss and gradient norm, a line per iteration.
course() {  # METRICS
  sed -nE 's/.*"iteration": ?([0-9]+),.*"lm_loss": ?([^,}]+).*"grad_norm": ?([^,}]+).*/\1 \2 \3/p' "$1"
}

# refused NAME PATTERNS... -- COMMAND...: it fails with one error message that matches all patterns.
refused() {
  local name="$1" patterns=() status=0 pattern
  shift
  while [ "$1" != -- ]; do
    patterns+=("$1")
    shift
  done
  shift
  timeout 60 "$@" >"$name.log" 2>&1 || status=$?
  [ "$status" -ne 0 ] && [ "$status" -lt 124 ] || { cat "$name.log"; broken "$name: exit status $status"; }
  [ "$(grep -c 'error: ' "$name.log")" -eq 1 ] || { cat "$name.log"; broken "$name: not one error message"; }
  for pattern in "${patterns[@]}"; do
    grep -Eq -- "$pattern" "$name.log" || { cat "$name.log"; broken "$name: nothing matches '$pattern'"; }
  done
}
