#!/usr/bin/env bash
# Where the time of a step goes: the table in the log, the same in the metrics file, and a timeline of all ranks.
. "$(dirname "$0")/common.sh"
prepare_data
train --wall-clock-breakdown --log-interval 2 --eval-interval 1 --ranks-per-node 1 --metrics-file run.jsonl \
  --trace run.trace.json --trace-begin 2 --trace-iters 3 >run.log 2>&1 || { cat run.log; broken "training"; }
[ "$(grep -c 'ms per step' run.log)" -eq 3 ] || { cat run.log; broken "expected a table behind each of three lines"; }
for row in 'layer 0' 'layer 1' 'no layer' 'total' 'most of ranks' 'MB per step'; do
  grep -q "^  $row" run.log || { cat run.log; broken "the table lacks '$row'"; }
done
for column in attention experts optimizer; do
  grep -q "ms per step.* $column " run.log || { cat run.log; broken "the table lacks a column '$column'"; }
done
for member in '"timers"' '"layers"' '"traffic"' '"bytes_between_nodes"'; do
  [ "$(grep '"lm_loss"' run.jsonl | grep -c "$member")" -eq 3 ] || { cat run.jsonl; broken "metrics file: no $member"; }
done
# Each rank is a node here: all that ep sends crosses nodes.
grep -Eq '"ep":\{"calls":[0-9.]+,"bytes_within_nodes":0.0,"bytes_between_nodes":[1-9]' run.jsonl ||
  { cat run.jsonl; broken "exchanges between nodes are not counted"; }

for rank in 0 1; do
  grep -q "\"pid\": $rank.*\"name\": \"rank $rank (node " run.trace.json || broken "trace: no track of rank $rank"
  [ "$(grep -c "\"X\", \"pid\": $rank,.*\"name\": \"attention\"" run.trace.json)" -ge 6 ] ||
    broken "trace: attention of rank $rank in three iterations of two layers"
done
if command -v python3 >/dev/null; then
  python3 - run.trace.json <<'PYTHON' || broken "trace: not valid, or events overlap without nesting"
import json, sys
events = [e for e in json.load(open(sys.argv[1]))["traceEvents"] if e["ph"] == "X"]
for rank in {e["pid"] for e in events}:
    open_ends = []
    for e in sorted((e for e in events if e["pid"] == rank), key=lambda e: (e["ts"], -e["dur"])):
        end = e["ts"] + e["dur"]
        while open_ends and open_ends[-1] <= e["ts"]:
            open_ends.pop()
        assert not open_ends or end <= open_ends[-1] + 1e-3, e  # rounded to nanoseconds
        open_ends.append(end)
PYTHON
fi

# By rbd on two nodes of two ranks every activity takes time. Rows cross nodes in ep and are
# passed on in ep_node; within nodes ep carries counts only, less than a thousand bytes.
mpirun -n 4 "$xmoe" train "${train_flags[@]}" --expert-model-parallel-size 4 --ranks-per-node 2 --moe-dispatcher rbd \
  --tensor-model-parallel-size 2 --wall-clock-breakdown --metrics-file rbd.jsonl >rbd.log 2>&1 ||
  { cat rbd.log; broken "training by rbd"; }
for activity in embedding attention gating pft gather between-nodes within-node experts combine loss optimizer; do
  grep -Eq "\"$activity\":\{\"mean\":[0-9.e-]*[1-9]" rbd.jsonl || { cat rbd.jsonl; broken "no time in '$activity'"; }
  grep -q "ms per step.* $activity " rbd.log || { cat rbd.log; broken "the table lacks a column '$activity'"; }
done
grep -Eq '"ep":\{"calls":[0-9.]+,"bytes_within_nodes":[1-9][0-9]{0,2}\.0,"bytes_between_nodes":[1-9][0-9]{4}' rbd.jsonl &&
  grep -Eq '"ep_node":\{"calls":[0-9.]+,"bytes_within_nodes":[1-9][0-9]{4,}\.0,"bytes_between_nodes":0\.0' rbd.jsonl ||
  { cat rbd.jsonl; broken "exchanges within and between nodes are not counted"; }
# A tensor-parallel group lies within a node here.
grep -Eq '"tp":\{"calls":[0-9.]+,"bytes_within_nodes":[1-9][0-9.e+]*,"bytes_between_nodes":0.0' rbd.jsonl ||
  { cat rbd.jsonl; broken "tensor-parallel traffic is not all within nodes"; }

# A training that ends before the trace does still writes it; without the flags nothing is measured.
train --train-iters 3 --trace short.json --trace-begin 3 --trace-iters 9 >short.log 2>&1 || { cat short.log; broken "short run"; }
grep -q '"experts"' short.json || broken "the trace of a short run is missing"
grep -q 'ms per step' short.log && broken "a table that nobody asked for"
echo "passed"
