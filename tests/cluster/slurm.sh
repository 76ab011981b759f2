#!/usr/bin/env bash
# The Slurm example on a local Slurm: a job of two tasks trains; submitted again it carries on from the checkpoint; told
# to end (as before its time limit) it saves one; and a job with a wrong model says so.
#
#   tests/cluster/slurm.sh XMOE DIRECTORY
set -euo pipefail
if [ "${3:-}" != inside ]; then
  here="$(dirname "$(realpath "$0")")"
  exec "$here/../../tools/slurm_local.sh" --directory "$2/slurm" -- "$0" "$1" "$2/work" inside
fi
sources="$(realpath "$(dirname "$0")/../..")"
. "$(dirname "$0")/../end_to_end/common.sh"
prepare_data

cat >tiny.toml <<'END'
num-layers = 2
hidden-size = 32
num-attention-heads = 4
seq-length = 32
num-experts = 8
moe-router-topk = 2
moe-ffn-hidden-size = 16
END
export DATA="$PWD/data" TOKENIZER="$PWD/tokenizer.json" OUT="$PWD/out" XMOE="$xmoe"
model="$PWD/tiny.toml"
cd "$sources"

# submit LOG ARGUMENTS...: waits for the end of the job.
submit() {
  local log="$1"
  shift
  sbatch --wait --nodes 1 --ntasks 2 --ntasks-per-node 2 --cpus-per-task 1 --output "$log" --error "$log" \
    examples/train_srun.sh "$@"
}
# The paper's length is counted in tokens, a test's in iterations.
flags=(--train-iters 6 --train-tokens 0 --lr-decay-tokens 0 --lr-warmup-tokens 0 --log-interval 1 --eval-iters 0)
run="$OUT.log"
iterations() { sed -nE 's/.*"iteration": ?([0-9]+),.*"lm_loss".*/\1/p' "$OUT/metrics.jsonl" | tr '\n' ' '; }

submit "$run" "$model" "${flags[@]}" --exit-interval 4 || { cat "$run"; broken "the first job"; }
[ "$(iterations)" = "1 2 3 4 " ] || { cat "$run"; broken "the first job: iterations $(iterations), expected 1 to 4"; }
grep -q "2 ranks; tensor parallel 1, expert parallel 2" "$run" || { cat "$run"; broken "the job is not of two ranks"; }
submit "$run" "$model" "${flags[@]}" || { cat "$run"; broken "the second job"; }
[ "$(iterations)" = "1 2 3 4 5 6 " ] ||
  { cat "$run"; broken "the second job does not carry on: iterations $(iterations)"; }

# A long training is told to end: it saves, and leaves in order.
job=$(sbatch --parsable --nodes 1 --ntasks 2 --ntasks-per-node 2 --cpus-per-task 1 --output "$run" --error "$run" \
  examples/train_srun.sh "$model" "${flags[@]}" --train-iters 100000000)
tries=0
until [ "$(iterations | wc -w)" -gt 10 ]; do
  [ $((++tries)) -le 600 ] || { cat "$run"; broken "the long job does not train"; }
  sleep 0.1
done
scancel --signal TERM "$job"
tries=0
while [ -n "$(squeue --noheader --jobs "$job" 2>/dev/null)" ]; do
  [ $((++tries)) -le 600 ] || { cat "$run"; broken "SIGTERM did not end the job"; }
  sleep 0.1
done
last=$(cat "$OUT/checkpoint/latest")
[ "${last//[!0-9]/}" -gt 10 ] || { cat "$run"; broken "no checkpoint was saved on SIGTERM: the last is $last"; }

if submit "$run" gigantic; then
  broken "a model that does not exist was accepted"
fi
grep -q "no model 'gigantic'" "$run" || { cat "$run"; broken "a wrong model is not named"; }
echo "passed"
