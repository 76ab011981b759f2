#!/usr/bin/env bash
# SIGTERM and SIGINT end a training cleanly: a checkpoint, exit status 0, and the same course when it is resumed.
. "$(dirname "$0")/common.sh"
prepare_data

# The learning rate does not depend on the length here, so that the endless run and the short one go the same way.
course=(--train-iters 1000000 --lr-decay-style constant --eval-interval 1000000)

# Sends SIGNAL to the ranks, or to mpirun, which passes it on and reports a failure whatever the ranks do, once three
# iterations are done.
interrupt_training() {  # SIGNAL DIRECTORY ranks|mpirun
  local status=0 waited=0
  mpirun -n 2 "$xmoe" train "${train_flags[@]}" "${course[@]}" --save "$2" --metrics-file "$2.jsonl" >"$2.log" 2>&1 &
  local launcher=$!
  until [ "$(grep -c '"lm_loss"' "$2.jsonl" 2>/dev/null)" -ge 3 ] 2>/dev/null; do
    sleep 0.1
    waited=$((waited + 1))
    kill -0 "$launcher" 2>/dev/null || { cat "$2.log"; broken "training ended by itself"; }
    [ "$waited" -lt 600 ] || { kill "$launcher"; cat "$2.log"; broken "no third iteration within a minute"; }
  done
  local receivers="$launcher"
  [ "$3" = mpirun ] || receivers=$(cat "/proc/$launcher/task/$launcher/children")
  # shellcheck disable=SC2086  # a list of process ids
  kill "-$1" $receivers || broken "no ranks to signal"
  wait "$launcher" || status=$?
  [ "$3" = mpirun ] || [ "$status" -eq 0 ] || { cat "$2.log"; broken "exit status $status after SIG$1"; }
  find "$2" -name '*.safetensors' | grep -q . || broken "SIG$1: no checkpoint in $2"
}

resume_equals_whole() {  # SIGNAL
  local signal="$1" reached target
  reached=$(grep -c '"lm_loss"' "by_$signal.jsonl")
  target=$((reached + 2))
  train "${course[@]}" --train-iters "$target" --eval-iters 0 --load "by_$signal" --metrics-file resumed.jsonl \
    >resumed.log 2>&1 || { cat resumed.log; broken "resuming after SIG$signal"; }
  train "${course[@]}" --train-iters "$target" --eval-iters 0 --metrics-file whole.jsonl >whole.log 2>&1 ||
    { cat whole.log; broken "training without interruption"; }
  timeless resumed.jsonl | grep '"lm_loss"' >resumed.txt
  timeless whole.jsonl | grep '"lm_loss"' | tail -2 >whole.txt
  diff whole.txt resumed.txt || broken "the course after SIG$signal differs"
  rm -f resumed.jsonl whole.jsonl
}

for signal in TERM INT; do
  interrupt_training "$signal" "by_$signal" ranks
  resume_equals_whole "$signal"
done

# Ctrl-C on mpirun itself: it kills the ranks after a second, unless it is told to leave them time to save.
rm -rf by_INT by_INT.jsonl
export OMPI_MCA_odls_base_sigkill_timeout=5
interrupt_training INT by_INT mpirun
unset OMPI_MCA_odls_base_sigkill_timeout
resume_equals_whole INT
echo "passed"
