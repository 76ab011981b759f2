#!/usr/bin/env bash
#SBATCH --job-name=xmoe
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@300
# Trains a model of the X-MoE paper on a Slurm cluster, on data that `xmoe data prepare` has written:
#
#   DATA=/scratch/pile TOKENIZER=/scratch/tokenizer.json sbatch --nodes 4 examples/train_srun.sh small
#
#   examples/train_srun.sh small|medium|large|super|MODEL.toml [FLAGS OF xmoe train]
#
# One rank per task; flags given here win over those below. Five minutes before the end Slurm sends SIGTERM: the ranks save a
# checkpoint and exit, and the same command, submitted again, carries on from there. Environment:
#
#   DATA        prefix of the prepared data      TENSOR, EXPERT  sizes of tensor- and expert-parallel groups
#   TOKENIZER   its tokenizer.json               MICRO_BATCH, GLOBAL_BATCH  sequences
#   OUT         where results go (out)           XMOE       the program (build/xmoe)
#   SLURM_MPI   what srun --mpi=list offers (pmix, which Debian's Open MPI speaks)
set -euo pipefail

model="${1:-small}"
[ $# -eq 0 ] || shift
data="${DATA:?the prefix of a data set that xmoe data prepare has written}"
tokenizer="${TOKENIZER:?its tokenizer.json}"
out="${OUT:-$PWD/out}"
nodes="${SLURM_JOB_NUM_NODES:?this script is for Slurm: start it with sbatch}"
tasks="${SLURM_NTASKS:?this script is for Slurm: start it with sbatch}"

# As the paper trains them: sizes of the groups, and sequences of a micro-batch of one rank and of a global batch.
# Small fits an expert-parallel group into a node of eight. The others spread theirs over several nodes, so that a token's
# row often crosses to a node for more than one expert. Between blocks the ranks of a tensor-parallel group share
# the sequence (sequence-sharded MoE blocks): with TENSOR 2 each holds half of the activations.
case "$model" in
  small)  tensor=1 expert=8   micro=4 batch=256 ;;
  medium) tensor=1 expert=64  micro=1 batch=1024 ;;
  large)  tensor=2 expert=64  micro=1 batch=1024 ;;
  super)  tensor=2 expert=256 micro=1 batch=1024 ;;  # 546 G parameters: wants all of its experts spread out
  *)      tensor=1 expert="$tasks" micro=1 batch="$tasks" ;;
esac
case "$model" in
  */* | *.toml) configuration="$model" ;;
  *) configuration="configs/models/$model.toml" ;;
esac
if [ ! -r "$configuration" ]; then
  echo "train_srun: no model '$model': expected small, medium, large, super or a TOML file ($configuration cannot be read)" >&2
  exit 2
fi
mkdir -p "$out"

echo "$model on $nodes nodes, $tasks ranks; tensor parallel ${TENSOR:-$tensor}, expert parallel ${EXPERT:-$expert}"
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
# Since Slurm 22.05 srun must be told how many processors a task has. The dispatcher is chosen by what the ranks find:
# redundancy-bypassing where expert-parallel groups span nodes and the links between these are slow enough.
srun --mpi="${SLURM_MPI:-pmix}" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --cpu-bind="${CPU_BIND:-cores}" \
  "${XMOE:-build/xmoe}" train \
  --config "$configuration" --config configs/runs/paper.toml \
  --tokenizer "$tokenizer" --data-path "$data" \
  --tensor-model-parallel-size "${TENSOR:-$tensor}" --expert-model-parallel-size "${EXPERT:-$expert}" \
  --moe-dispatcher auto --zero-stage 1 \
  --micro-batch-size "${MICRO_BATCH:-$micro}" --global-batch-size "${GLOBAL_BATCH:-$batch}" \
  --metrics-file "$out/metrics.jsonl" --save "$out/checkpoint" --load "$out/checkpoint" --save-interval 500 \
  --keep-last-checkpoints 3 "$@"
