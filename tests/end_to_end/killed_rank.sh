#!/usr/bin/env bash
# One rank of a training is killed: the job ends soon, with an exit status, and a rank that waits says for whom.
. "$(dirname "$0")/common.sh"
prepare_data

mpirun -n 4 "$xmoe" train "${train_flags[@]}" --train-iters 100000000 --eval-iters 0 --micro-batch-size 1 --metrics-file run.jsonl \
  >run.log 2>&1 &
launcher=$!
for ((i = 0; ; ++i)); do
  iterations=$(grep -c '"lm_loss"' run.jsonl 2>/dev/null) || true
  [ "${iterations:-0}" -lt 3 ] || break
  kill -0 "$launcher" 2>/dev/null || { cat run.log; broken "training ended by itself"; }
  [ "$i" -lt 600 ] || { kill "$launcher"; cat run.log; broken "no third iteration within a minute"; }
  sleep 0.1
done
victim=$(tr ' ' '\n' <"/proc/$launcher/task/$launcher/children" | grep . | tail -1)
kill -KILL "$victim"
for ((i = 0; i < 600; ++i)); do
  kill -0 "$launcher" 2>/dev/null || break
  sleep 0.1
done
kill -0 "$launcher" 2>/dev/null && { kill "$launcher"; cat run.log; broken "the job did not end within a minute"; }
status=0
wait "$launcher" || status=$?
[ "$status" -ne 0 ] || { cat run.log; broken "a rank was killed and the job succeeded"; }
grep -Eq 'rank [0-2]: error: rank 3 .* has died while this rank waits in .* of the group ' run.log ||
  { cat run.log; broken "nobody says who died"; }
echo "passed"
