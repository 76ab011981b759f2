#!/usr/bin/env bash
#SBATCH --job-name=xmoe
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@300
# Trains the paper's Small model on a Slurm cluster: `sbatch examples/train_srun.sh`, with prepared data.
#
# One rank per task. The experts of a model are spread over the ranks of a node (expert-model-parallel-size = ranks per node),
# so that tokens do not leave it; the nodes are data parallel. Five minutes before the end Slurm sends SIGTERM: the
# ranks save a checkpoint and exit, and the same script, submitted again, carries on from there.
set -euo pipefail

data="${DATA:?the prefix of a data set that xmoe data prepare has written}"
tokenizer="${TOKENIZER:?its tokenizer.json}"
out="${OUT:-$PWD/out}"
mkdir -p "$out"

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
# pmix is what Debian's Open MPI speaks; `srun --mpi=list` shows what your Slurm offers.
srun --mpi="${SLURM_MPI:-pmix}" --cpu-bind=cores "${XMOE:-build/xmoe}" train \
  --config configs/models/small.toml --config configs/runs/paper.toml \
  --tokenizer "$tokenizer" --data-path "$data" \
  --expert-model-parallel-size "${SLURM_NTASKS_PER_NODE:-8}" \
  --global-batch-size "${GLOBAL_BATCH:-256}" \
  --metrics-file "$out/metrics.jsonl" --save "$out/checkpoint" --load "$out/checkpoint" --save-interval 500 \
  --keep-last-checkpoints 3
