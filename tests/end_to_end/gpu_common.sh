# What the stories of a GPU share, besides common.sh; sourced as that is.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# One rank. Every part of a model, in sizes that the tensor cores' kernels and the vendors' attention take in 16 bits.
gpu_flags=(--num-layers 3 --hidden-size 64 --ffn-hidden-size 128 --num-attention-heads 4 --num-query-groups 2
  --seq-length 64 --normalization RMSNorm --swiglu --num-experts 16 --moe-router-topk 4 --moe-ffn-hidden-size 64
  --moe-shared-expert-intermediate-size 64 --moe-first-k-dense 1 --moe-router-score-function sigmoid
  --moe-router-norm-topk-prob --moe-router-enable-expert-bias --moe-aux-loss-coeff 0.001 --micro-batch-size 4
  --global-batch-size 8 --lr 1e-3 --log-interval 1 --eval-iters 0 --data-path data --tokenizer tokenizer.json)

run() {  # NAME flags: trains, and stops the test where that fails
  "$xmoe" train "${gpu_flags[@]}" "${@:2}" --metrics-file "$1.jsonl" >"$1.log" 2>&1 || { cat "$1.log"; broken "$1"; }
}

# Without a usable GPU the test is skipped with the reason, or fails where one is required. To be called behind prepare_data.
require_gpu() {
  "$xmoe" train "${gpu_flags[@]}" --train-iters 1 --lr-warmup-iters 0 --device cuda >probe.log 2>&1 && return
  local reason
  reason=$(sed -n 's/.*error: --device cuda: //p' probe.log)
  [ -n "$reason" ] || { cat probe.log; broken "one iteration on the GPU"; }
  [ -z "${XMOE_REQUIRE_GPU+set}" ] || broken "$reason"
  echo "skipped: $reason"
  exit 77
}

same_files() {  # DIRECTORY DIRECTORY: the same checkpoint to the bit
  local file compared=0
  for file in "$1"/*.safetensors; do
    cmp "$file" "$2/$(basename "$file")" || broken "$file is not what $2 has"
    compared=$((compared + 1))
  done
  [ "$compared" -ge 1 ] || broken "$1 has no parameters"
}
