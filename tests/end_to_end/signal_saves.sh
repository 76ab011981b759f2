#!/usr/bin/env bash
# SIGTERM and SIGINT end a training cleanly: a checkpoint, exit status 0, and the same course when it is resumed.
. "$(dirname "$0")/common.sh"
prepare_data

# The learning rate does not depend on the length here, so that the endless run and the short one go the same way.
course=(--train-iters 1000000 --lr-decay-style constant --eval-interval 1000000)

# Sends SIGNAL to the ranks (not to mpirun, which would end them its own way) once three iterations are done.
interrupt_training() {  # SIGNAL DIRECTORY
  local status=0 waited=0
  mpirun -n 2 "$xmoe" train "${train_flags[@]}" "${course[@]}" --save "$2" --metrics-file "$2.jsonl" >"$2.log" 2>&1 &
  local launcher=$!
  until [ "$(grep -c '"lm_loss"' "$2.jsonl" 2>/dev/null)" -ge 3 ] 2>/dev/null; do
    sleep 0.1
    waited=$((waited + 1))
    kill -0 "$launcher" 2>/dev/null || { cat "$2.log"; broken "training ended by itself"; }
    [ "$waited" -lt 600 ] || { kill "$launcher"; cat "$2.log"; broken "no third iteration within a minute"; }
  done
  # shellcheck disable=SC2046  # a list of process ids
  kill "-$1" $(cat "/proc/$launcher/task/$launcher/children") || broken "no ranks to signal"
  wait "$launcher" || status=$?
  [ "$status" -eq 0 ] || { cat "$2.log"; broken "exit status $status after SIG$1"; }
  find "$2" -name '*.safetensors' | grep -q . || broken "SIG$1: no checkpoint in $2"
}

for signal in TERM INT; do
  interrupt_training "$signal" "by_$signal"
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
done
echo "passed"
