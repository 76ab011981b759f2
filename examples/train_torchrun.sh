#!/usr/bin/env bash
#SBATCH --job-name=xmoe
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --time=12:00:00
# Trains a model of the X-MoE paper on NVIDIA GPUs, started by torchrun, on data that `xmoe data prepare` has written:
#
#   DATA=/scratch/pile TOKENIZER=/scratch/tokenizer.json examples/train_torchrun.sh small
#   DATA=... TOKENIZER=... NODES=4 NODE_RANK=0 MASTER_ADDR=node0 examples/train_torchrun.sh medium     on each node, with its NODE_RANK
#   DATA=... TOKENIZER=... sbatch --nodes 4 examples/train_torchrun.sh medium                          with Slurm
#
#   examples/train_torchrun.sh small|medium|large|MODEL.toml [FLAGS OF xmoe train]
#
# torchrun only starts the processes, a rank for each GPU: no Python runs in them, and no MPI. Ranks meet at MASTER_ADDR, on the first
# free ports from MASTER_PORT on, and connect with each other on ports that the system chooses. Run the same command again to carry
# on from the last checkpoint. Flags given here win over those below. Environment:
#
#   DATA        prefix of the prepared data      TENSOR, EXPERT  sizes of tensor- and expert-parallel groups
#   TOKENIZER   its tokenizer.json               MICRO_BATCH, GLOBAL_BATCH  sequences
#   OUT         where results go (out)           XMOE       the program (build-cuda/xmoe)
#   GPUS        of a node (8)                    NODES, NODE_RANK, MASTER_ADDR, MASTER_PORT  without Slurm, for several nodes
set -euo pipefail

model="${1:-small}"
[ $# -eq 0 ] || shift
data="${DATA:?the prefix of a data set that xmoe data prepare has written}"
tokenizer="${TOKENIZER:?its tokenizer.json}"
out="${OUT:-$PWD/out}"
gpus="${GPUS:-8}"
nodes="${SLURM_JOB_NUM_NODES:-${NODES:-1}}"
ranks=$((nodes * gpus))

case "$model" in
  small)  tensor=1 expert=8   micro=4 batch=256 ;;
  medium) tensor=1 expert=64  micro=1 batch=1024 ;;
  large)  tensor=2 expert=64  micro=1 batch=1024 ;;
  *)      tensor=1 expert="$ranks" micro=1 batch="$ranks" ;;
esac
case "$model" in
  */* | *.toml) configuration="$model" ;;
  *) configuration="configs/models/$model.toml" ;;
esac
if [ ! -r "$configuration" ]; then
  echo "train_torchrun: no model '$model': expected small, medium, large or a TOML file ($configuration cannot be read)" >&2
  exit 2
fi
mkdir -p "$out"

# One torchrun a node. Under Slurm srun starts them, and tells each its number.
agents=()
if [ -n "${SLURM_JOB_ID:-}" ]; then
  MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
  agents=(srun --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}")
elif [ "$nodes" -gt 1 ]; then
  : "${NODE_RANK:?the number of this node, from 0}" "${MASTER_ADDR:?the host of node 0}"
fi
export MASTER_ADDR="${MASTER_ADDR:-127.0.0.1}" MASTER_PORT="${MASTER_PORT:-29500}"
# torchrun itself would leave a rank one thread: few for --distributed-backend staged, whose sums the host forms.
cores="${SLURM_CPUS_PER_TASK:-$(nproc)}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(( (cores + gpus - 1) / gpus ))}"

# $SLURM_NODEID is that of the node where it is read.
# shellcheck disable=SC2016
exec "${agents[@]}" bash -c 'exec torchrun --nnodes "$1" --node-rank "${SLURM_NODEID:-${NODE_RANK:-0}}" --nproc-per-node "$2" \
  --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" --no-python "${@:3}"' torchrun "$nodes" "$gpus" \
  "${XMOE:-build-cuda/xmoe}" train --device cuda \
  --config "$configuration" --config configs/runs/paper.toml \
  --tokenizer "$tokenizer" --data-path "$data" \
  --tensor-model-parallel-size "${TENSOR:-$tensor}" --expert-model-parallel-size "${EXPERT:-$expert}" \
  --moe-dispatcher auto --zero-stage 1 \
  --micro-batch-size "${MICRO_BATCH:-$micro}" --global-batch-size "${GLOBAL_BATCH:-$batch}" \
  --metrics-file "$out/metrics.jsonl" --save "$out/checkpoint" --load "$out/checkpoint" --save-interval 500 \
  --keep-last-checkpoints 2 "$@"
