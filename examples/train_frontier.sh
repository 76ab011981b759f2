#!/usr/bin/env bash
#SBATCH --job-name=xmoe
#SBATCH --nodes=32
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=7
#SBATCH --threads-per-core=1
#SBATCH --core-spec=8
#SBATCH --exclusive
#SBATCH --time=02:00:00
#SBATCH --signal=TERM@300
# Trains a model of the X-MoE paper on nodes like Frontier's: 64 cores, 8 of them kept for the system, and 8 devices, each
# next to 8 cores. One rank per device. An account must be given:
#
#   DATA=... TOKENIZER=... sbatch --account ACCOUNT --nodes 32 examples/train_frontier.sh large
#
# Nodes for the paper's runs: small 1, medium 32, large 32, super 128. Arguments and environment are those of train_srun.sh,
# which this script calls; ranks compute on their 7 cores.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?this script is for Slurm: submit it from the directory of the sources with sbatch}"

# Cray's MPI, with which the program has to be built there, is started by Slurm itself.
export SLURM_MPI="${SLURM_MPI:-cray_shasta}"
# Consecutive ranks on a node: expert-parallel groups fill nodes.
export SLURM_DISTRIBUTION="${SLURM_DISTRIBUTION:-block}"
exec examples/train_srun.sh "${1:-large}" "${@:2}"
