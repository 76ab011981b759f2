#!/usr/bin/env bash
# GPUs that are not there, and models that do not fit: one clear message, a non-zero exit, and nothing trained.
. "$(dirname "$0")/gpu_common.sh"
prepare_data
require_gpu

not_trained() {  # NAME PATTERNS... -- flags: refused, before the first iteration
  local name="$1" expected=()
  while [ "$1" != -- ]; do
    expected+=("$1")
    shift
  done
  refused "${expected[@]}" -- "$xmoe" train "${gpu_flags[@]}" --train-iters 1 "${@:2}"
  ! grep -q 'iteration  *1/' "$name.log" || { cat "$name.log"; broken "$name: it has trained"; }
}

CUDA_VISIBLE_DEVICES='' not_trained hidden 'error: --device cuda: .*shows no GPU.*--device cpu' -- --device cuda
not_trained no_such_gpu 'error: --device cuda: there is no gpu:99: this machine shows [0-9]+' -- --device cuda:99
not_trained too_large 'does not fit: a rank needs .*, and its share of gpu:0 is ' '^ +optimizer +[0-9.]+ [TP]B$' \
  'What one change alone saves:' '--bf16' -- --device cuda --num-layers 8 --hidden-size 16384 --num-experts 512 --moe-ffn-hidden-size 8192
echo "passed"
