#!/usr/bin/env bash
# Trains a model on one machine with your own text.
#
#   examples/train_mpirun.sh TEXT_OR_JSONL [RANKS] [FLAGS OF xmoe train]
#
# Makes out/tokenizer.json, out/train.{bin,idx} and out/checkpoint; run it again to carry on from the last checkpoint. Another text
# needs another directory: OUT=elsewhere. MODEL is a name in configs/models or a TOML file, if it is not the demo's; XMOE is the
# program, if it is not build/xmoe.
set -euo pipefail
. "$(dirname "$0")/../tools/environment.sh"

text="${1:-}"
if [ ! -r "$text" ] || [ -d "$text" ]; then
  echo "usage: examples/train_mpirun.sh TEXT_OR_JSONL [RANKS] [FLAGS OF xmoe train]   (${text:-no text} cannot be read)" >&2
  exit 2
fi
ranks="${2:-2}"
if ! [[ "$ranks" =~ ^[1-9][0-9]*$ ]]; then
  echo "train_mpirun: '$ranks' ranks: expected a number" >&2
  exit 2
fi
model="${MODEL:-demo}"
case "$model" in
  */* | *.toml) configuration="$model" ;;
  *) configuration="configs/models/$model.toml" ;;
esac
if [ ! -r "$configuration" ]; then
  echo "train_mpirun: no model '$model': MODEL is a name in configs/models or a TOML file ($configuration cannot be read)" >&2
  exit 2
fi
xmoe="${XMOE:-build/xmoe}"
out="${OUT:-out}"
mkdir -p "$out"

# What lies in out/ belongs to the text of which it was made: the tokenizer, the tokens and the checkpoint.
checksum="$(cksum <"$text")"
if [ -f "$out/text.cksum" ] && [ "$(cat "$out/text.cksum")" != "$checksum" ]; then
  echo "train_mpirun: $out was made from another text than $text (or it has changed since)." >&2
  echo "Remove $out to begin anew, or give this text a directory of its own: OUT=elsewhere $0 $text" >&2
  exit 2
fi
echo "$checksum" >"$out/text.cksum"

[ -f "$out/tokenizer.json" ] ||
  "$xmoe" tokenizer train --input "$text" --vocab-size 8192 --output "$out/tokenizer.json"
[ -f "$out/train.idx" ] ||
  "$xmoe" data prepare --input "$text" --split-documents blank-line --tokenizer "$out/tokenizer.json" \
    --output-prefix "$out/train"

# The cores are shared out to the ranks; each computes with its threads and talks to the others through MPI. Experts are spread over
# all ranks, and so is the optimizer's state.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(( ($(nproc) + ranks - 1) / ranks ))}"
# After Ctrl-C mpirun leaves its ranks this many seconds to save a checkpoint. It waits as long when a rank fails.
export OMPI_MCA_odls_base_sigkill_timeout="${OMPI_MCA_odls_base_sigkill_timeout:-10}"
exec mpirun -n "$ranks" --bind-to none "$xmoe" train \
  --config "$configuration" \
  --tokenizer "$out/tokenizer.json" --data-path "$out/train" --split 98,2,0 \
  --expert-model-parallel-size "$ranks" --moe-dispatcher auto --zero-stage 1 \
  --micro-batch-size 4 --global-batch-size "$((8 * ranks))" --train-iters 2000 \
  --lr 2e-3 --min-lr 2e-4 --lr-decay-style cosine --lr-warmup-iters 100 --adam-beta2 0.95 --weight-decay 0.1 --bf16 \
  --log-interval 10 --eval-interval 250 --eval-iters 20 --metrics-file "$out/metrics.jsonl" \
  --save "$out/checkpoint" --load "$out/checkpoint" --save-interval 250 --keep-last-checkpoints 2 "${@:3}"
