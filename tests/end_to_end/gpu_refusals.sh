#!/usr/bin/env bash
# GPUs that are not there, and models that do not fit: one clear message, a non-zero exit, and nothing trained.
. "$(dirname "$0")/gpu_common.sh"
prepare_data
require_gpu

refused() {  # NAME PATTERNS... -- flags
  local name="$1" patterns=() status=0 pattern
  shift
  while [ "$1" != -- ]; do
    patterns+=("$1")
    shift
  done
  timeout 60 "$xmoe" train "${gpu_flags[@]}" --train-iters 1 "${@:2}" >"$name.log" 2>&1 || status=$?
  [ "$status" -ne 0 ] && [ "$status" -lt 124 ] || { cat "$name.log"; broken "$name: exit status $status"; }
  [ "$(grep -c 'error: ' "$name.log")" -eq 1 ] || { cat "$name.log"; broken "$name: not one error message"; }
  for pattern in "${patterns[@]}"; do
    grep -Eq -- "$pattern" "$name.log" || { cat "$name.log"; broken "$name: nothing matches '$pattern'"; }
  done
  ! grep -q 'iteration  *1/' "$name.log" || { cat "$name.log"; broken "$name: it has trained"; }
}

CUDA_VISIBLE_DEVICES='' refused hidden 'error: --device cuda: .*shows no GPU.*--device cpu' -- --device cuda
refused no_such_gpu 'error: --device cuda: there is no gpu:99: this machine shows [0-9]+' -- --device cuda:99
refused too_large 'does not fit: a rank needs .*, and its share of gpu:0 is ' '^ +optimizer +[0-9.]+ [TP]B$' \
  'What one change alone saves:' '--bf16' -- --device cuda --num-layers 8 --hidden-size 16384 --num-experts 512 --moe-ffn-hidden-size 8192
echo "passed"
