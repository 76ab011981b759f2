#!/usr/bin/env bash
# Layouts of parallelism: those that do not fit are refused with those that would, ranks that were started differently
# are named, and those that fit train what one rank trains.
. "$(dirname "$0")/common.sh"
prepare_data

train_refused() {  # NAME RANKS PATTERN -- further flags
  refused "$1" "$3" -- mpirun -n "$2" "$xmoe" train "${train_flags[@]}" "${@:5}"
}

tp=--tensor-model-parallel-size
ep=--expert-model-parallel-size
train_refused tp_and_world 4 'tensor-model-parallel-size 3 does not divide the number of ranks, 4: .* 1, 2, 4' -- $tp 3
train_refused ep_and_world 2 'expert-model-parallel-size 4 does not divide .* 2: .* 1, 2' -- $ep 4
train_refused ep_and_experts 3 'expert-model-parallel-size 3 does not divide --num-experts 8: sizes that fit .* are 1$' \
  -- $ep 3 --global-batch-size 6
train_refused heads 2 'num-attention-heads 3 is not divisible by --tensor-model-parallel-size 2: tensor sizes .* are 1$' \
  -- $tp 2 --num-attention-heads 3 --num-query-groups 3 --kv-channels 8
train_refused query_groups 4 'num-query-groups 2 is not divisible by --tensor-model-parallel-size 4: .* are 1, 2$' -- $tp 4
train_refused sequence 2 'seq-length 31 is not divisible by --tensor-model-parallel-size 2: tensor sizes .* are 1$' \
  -- $tp 2 --seq-length 31
train_refused vocabulary 2 'make-vocab-size-divisible-by pads the vocabulary to 321 .* are 1; or pad to a multiple of 128' \
  -- $tp 2 --vocab-size 321 --make-vocab-size-divisible-by 1
train_refused ted_without_tp 2 'enable-expert-tensor-parallelism .*tensor-model-parallel-size is 1' \
  -- --enable-expert-tensor-parallelism
train_refused batch_of_groups 4 'global-batch-size 6 is not a multiple of --micro-batch-size 2 \* 2 data-parallel groups' \
  -- $tp 2 --global-batch-size 6

# Ranks started with other arguments, of which only one may fail or print.
apart() {  # NAME PATTERN FLAG...: the flags on the second rank only
  refused "$1" "$2" -- mpirun -n 1 "$xmoe" train "${train_flags[@]}" : -n 1 "$xmoe" train "${train_flags[@]}" "${@:3}"
}
apart other_seed "rank 1: .*'--seed 2' here, 'nothing' there" --seed 2
apart help_on_one "rank 1: .*'--help' here" --help
apart mistake_on_one "rank 1: .*'--no-such-flag' here" --no-such-flag
refused other_command "rank 1: .*'eval" -- mpirun -n 1 "$xmoe" train "${train_flags[@]}" : -n 1 "$xmoe" eval --load x \
  --data-path data

# Who sits where, without a model.
mpirun -n 4 "$xmoe" train $tp 2 $ep 4 --ranks-per-node 2 --print-mesh >mesh.txt 2>&1 || { cat mesh.txt; broken "--print-mesh"; }
for pattern in 'node' 'tp' 'edp' "$(hostname)"; do
  grep -q "$pattern" mesh.txt || { cat mesh.txt; broken "--print-mesh does not show $pattern"; }
done
refused mesh_that_does_not_fit 'expert-model-parallel-size 3' -- mpirun -n 4 "$xmoe" train $ep 3 --print-mesh

# One rank, and four of each layout, from the same samples in one micro-batch.
same_step=(--global-batch-size 8 --eval-iters 1)
"$xmoe" train "${train_flags[@]}" "${same_step[@]}" $ep 1 --micro-batch-size 8 --save one --metrics-file one.jsonl \
  >one.log 2>&1 || { cat one.log; broken "one rank"; }
course one.jsonl >one.txt
[ "$(wc -l <one.txt)" -eq 6 ] || broken "one rank: expected six iterations"
layout() {  # NAME flags of four ranks
  mpirun -n 4 "$xmoe" train "${train_flags[@]}" "${same_step[@]}" --ranks-per-node 2 --metrics-file "$1.jsonl" "${@:2}" \
    >"$1.log" 2>&1 || { cat "$1.log"; broken "$1"; }
  course "$1.jsonl" | paste -d ' ' - one.txt | awk -v name="$1" '
    { for (i = 2; i <= 3; ++i) { d = $i - $(i + 3); if (d < 0) d = -d
        if (!($i > 0 && d < 1e-5 * $i)) { print name ": iteration " $1 ": " $i ", one rank: " $(i + 3); bad = 1 } } }
    END { exit bad || NR != 6 }' || broken "$1 trains something else than one rank"
}
layout tensor $tp 2 $ep 4 --micro-batch-size 4 --zero-stage 1 --save tensor
layout two_stages $tp 2 $ep 4 --micro-batch-size 4 --use-rbd --use-pft --moe-overlap-chunks 2 --recompute-granularity full
layout ted $tp 2 $ep 2 --enable-expert-tensor-parallelism --micro-batch-size 4 --recompute-modules attention,moe
layout replicas $ep 2 --expert-placement dp-first --micro-batch-size 2 --moe-dispatcher auto --use-distributed-optimizer
grep -Eq 'dispatcher: (flat|rbd): ' replicas.log || { cat replicas.log; broken "the automatic choice is not explained"; }
grep -q 'tensor parallel 2, data parallel 2, expert parallel 4' tensor.log || { cat tensor.log; broken "no layout line"; }

# What one layout saved, another one evaluates and continues.
for save in one tensor; do
  "$xmoe" eval --load "$save" --data-path heldout --output "$save.json" >eval.log 2>&1 || { cat eval.log; broken "eval $save"; }
done
mpirun -n 4 "$xmoe" eval --load tensor --data-path heldout $tp 2 $ep 4 --output again.json >eval.log 2>&1 ||
  { cat eval.log; broken "eval with tensor parallelism"; }
for result in tensor again; do
  paste -d ' ' <(sed -n 's/.*"loss": *//p' one.json | tr -d ,) <(sed -n 's/.*"loss": *//p' "$result.json" | tr -d ,) |
    awk '{ d = $1 - $2; exit !($1 > 0 && d < 1e-5 * $1 && -d < 1e-5 * $1) }' || broken "evaluations differ: $result"
done
# Three iterations on one layout and three on another are the six of one rank that never stopped.
layout_from() {  # NAME CHECKPOINT flags: as layout(), of which only the later iterations are compared
  mpirun -n 4 "$xmoe" train "${train_flags[@]}" "${same_step[@]}" --ranks-per-node 2 --load "$2" --metrics-file "$1.jsonl" \
    "${@:3}" >"$1.log" 2>&1 || { cat "$1.log"; broken "$1"; }
  [ "$(course "$1.jsonl" | cut -d ' ' -f 1 | tr '\n' ' ')" = "4 5 6 " ] || { cat "$1.log"; broken "$1: not iterations 4 to 6"; }
  paste -d ' ' <(course "$1.jsonl") <(tail -3 one.txt) | awk -v name="$1" '
    { for (i = 2; i <= 3; ++i) { d = $i - $(i + 3); if (d < 0) d = -d
        if (!($i > 0 && d < 1e-5 * $i)) { print name ": iteration " $1 ": " $i ", one rank: " $(i + 3); bad = 1 } } }
    END { exit bad || NR != 3 }' || broken "$1 does not continue as one rank does"
}
mpirun -n 4 "$xmoe" train "${train_flags[@]}" "${same_step[@]}" $tp 2 $ep 4 --micro-batch-size 4 --zero-stage 1 \
  --exit-interval 3 --save half >half.log 2>&1 || { cat half.log; broken "the first half"; }
layout_from half_to_ted half $tp 2 $ep 2 --enable-expert-tensor-parallelism --micro-batch-size 4
layout_from half_to_replicas half $ep 2 --expert-placement dp-first --micro-batch-size 2 --zero-stage 1

refused eval_heads 'num-query-groups 2 is not divisible' -- mpirun -n 4 "$xmoe" eval --load one --data-path heldout $tp 4
"$xmoe" generate --load tensor --prompt "the king" --max-new-tokens 8 --temperature 0 >alone.txt 2>generate.log
mpirun -n 2 "$xmoe" generate --load tensor --prompt "the king" --max-new-tokens 8 --temperature 0 $tp 2 >both.txt \
  2>>generate.log || { cat generate.log; broken "generation with tensor parallelism"; }
cmp alone.txt both.txt || broken "two ranks generate another text"
echo "passed"
