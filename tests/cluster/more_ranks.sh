#!/usr/bin/env bash
# Five steps of training on 12 and 16 ranks, more than the distributed tests run on, over nodes of two: every layout gives the losses
# and gradient norms of one rank. Where the machine does not allow emulated nodes, they are runs of two ranks in name only.
#
#   tests/cluster/more_ranks.sh XMOE DIRECTORY
cluster="$(realpath "$(dirname "$0")/../../tools/cluster.sh")"
. "$(dirname "$0")/../end_to_end/common.sh"
prepare_data

# As many sequences in every step: one micro-batch, over however many groups of ranks.
sequences=48
flags=("${train_flags[@]}" --num-query-groups 4 --num-experts 48 --moe-z-loss-coeff 0.001 --train-iters 5 --eval-iters 0
  --global-batch-size $sequences)

course() {  # METRICS: iteration, loss and gradient norm
  sed -nE 's/.*"iteration": ?([0-9]+),.*"lm_loss": ?([^,}]+).*"grad_norm": ?([^,}]+).*/\1 \2 \3/p' "$1"
}

mpirun -n 1 "$xmoe" train "${flags[@]}" --expert-model-parallel-size 1 --micro-batch-size $sequences \
  --metrics-file one.jsonl >one.log 2>&1 || { cat one.log; broken "one rank"; }
course one.jsonl >one.course
[ "$(wc -l <one.course)" -eq 5 ] || { cat one.log; broken "one rank: expected 5 iterations"; }

same_as_one() {  # NODES TENSOR EXPERT, further flags
  local nodes="$1" tensor="$2" expert="$3" status=0
  shift 3
  local name="$nodes nodes, tensor $tensor, expert $expert $*"
  rm -f many.jsonl
  local command=("$xmoe" train "${flags[@]}" --tensor-model-parallel-size "$tensor" --expert-model-parallel-size "$expert"
    --micro-batch-size $((sequences * tensor / (2 * nodes))) "$@" --metrics-file many.jsonl)
  "$cluster" --nodes "$nodes" --ranks-per-node 2 -- "${command[@]}" >many.log 2>&1 || status=$?
  if [ "$status" -eq 77 ]; then
    status=0
    mpirun -n $((2 * nodes)) "${command[@]}" --ranks-per-node 2 >many.log 2>&1 || status=$?
  fi
  [ "$status" -eq 0 ] || { cat many.log; broken "$name: exit code $status"; }
  course many.jsonl >many.course
  paste -d ' ' one.course many.course | awk -v name="$name" '
    function apart(a, b) { d = a > b ? a - b : b - a; return d > 1e-5 * a }
    $1 != $4 || apart($2, $5) || apart($3, $6) {
      printf "%s: iteration, loss and norm are %s %s %s, on one rank %s %s %s\n", name, $4, $5, $6, $1, $2, $3
      wrong = 1
    }
    END { exit wrong || NR != 5 }' || broken "$name: not the course of one rank"
  echo "$name: as one rank"
}

same_as_one 6 1 12 --moe-dispatcher flat
same_as_one 6 2 6 --moe-dispatcher rbd --zero-stage 1
same_as_one 8 4 8 --moe-dispatcher rbd --expert-placement dp-first --zero-stage 1
same_as_one 8 2 8 --enable-expert-tensor-parallelism
echo "passed"
