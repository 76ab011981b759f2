#!/usr/bin/env bash
# From raw text to a language model that speaks: what `make demo` runs.
#
# Everything lies in demo/ and is made once: a second run goes straight to what is missing, an interrupted training is
# resumed, and a finished one is only evaluated and sampled. A step is done again when its command or an
# earlier step has changed. Remove demo/ to begin anew.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh

ranks=2
vocabulary=4096
model=configs/models/demo.toml
run=configs/runs/demo.toml
prompts=("In the beginning" "And the king said unto him,")

cores=$(nproc)
threads=$((cores > ranks ? cores / ranks : 1))
if [ "$cores" -lt "$ranks" ]; then
  export OMPI_MCA_mpi_yield_when_idle=1  # ranks that share a core must not wait for each other by spinning
fi

interrupted=
launcher=
# mpirun gives its ranks a second to live after Ctrl-C, too little to save a checkpoint. So it runs in a session of its own, and
# the ranks are told directly.
stop() {
  interrupted=1
  [ -z "$launcher" ] || kill -TERM $(cat "/proc/$launcher/task/$launcher/children" 2>/dev/null) 2>/dev/null || true
}
trap stop INT TERM HUP
timings=()

# say TITLE COMMAND...: runs a step and keeps its time. (Inside of a step `set -e` does not hold: the status is asked for.)
say() {
  local title="$1" start=$SECONDS status=0
  shift
  printf '\n==> %s\n' "$title"
  "$@" || status=$?
  if [ -n "$interrupted" ]; then
    printf '\nInterrupted. `make demo` goes on from here.\n' >&2
    exit 130
  fi
  if [ "$status" -ne 0 ]; then
    printf '\nThis step failed: %s\n' "$title" >&2
    exit "$status"
  fi
  timings+=("$(printf '%5d s  %s' $((SECONDS - start)) "$title")")
}

# once NAME TITLE COMMAND...: the same, unless it has been done with the same command after the same steps.
history=
once() {
  local name="$1" title="$2" stamp="demo/done/$1"
  shift 2
  history="$history"$'\n'"$*"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$history" ]; then
    printf '\n==> %s: done before\n' "$title"
    return
  fi
  say "$title" "$@"
  mkdir -p demo/done
  printf '%s' "$history" >"$stamp"
}

build() {
  make --no-print-directory build
}

# The King James Bible, a chapter per document and a verse per line, without its verse numbers. Every twentieth chapter
# (59 of 1,189) is held out: neither the tokenizer nor the model ever sees it.
make_text() {
  mkdir -p demo/text demo/heldout_text
  bible -f Gen1:1-Rev22:21 | awk '
    { chapter = $1; sub(/:.*/, "", chapter) }
    chapter != last { last = chapter; ++count; separator = "\n" }
    {
      file = count % 20 == 0 ? "demo/heldout_text/bible.txt" : "demo/text/bible.txt"
      sub(/^[^ ]+ +/, "")
      print (file in begun ? separator : "") $0 > file
      begun[file] = 1
      separator = ""
    }' || return
  wc -c demo/text/bible.txt demo/heldout_text/bible.txt
}

train_tokenizer() {
  build/xmoe tokenizer train --input demo/text/bible.txt --vocab-size "$vocabulary" --output demo/tokenizer.json
}

prepare() {  # TEXT PREFIX
  build/xmoe data prepare --input "$1" --split-documents blank-line --tokenizer demo/tokenizer.json --output-prefix "$2"
}

train() {  # CHECKSUM of the configuration, which makes it a part of the command
  # A checkpoint of another configuration is in the way, an interrupted one of this configuration is welcome.
  if [ "$(cat demo/checkpoint.configuration 2>/dev/null)" != "$history" ]; then
    rm -rf demo/checkpoint demo/metrics.jsonl
    printf '%s' "$history" >demo/checkpoint.configuration
  fi
  echo "$ranks ranks, $threads thread(s) each"
  OMP_NUM_THREADS=$threads setsid mpirun -n "$ranks" build/xmoe train --config "$model" --config "$run" \
    --tokenizer demo/tokenizer.json --data-path demo/train --save demo/checkpoint --load demo/checkpoint \
    --metrics-file demo/metrics.jsonl &
  launcher=$!
  local status=0
  while wait "$launcher" && status=0 || status=$?; kill -0 "$launcher" 2>/dev/null; do
    :  # a signal ended the wait, not the training
  done
  launcher=
  return "$status"
}

evaluate() {
  OMP_NUM_THREADS=$cores build/xmoe eval --load demo/checkpoint --data-path demo/heldout --output demo/evaluation.json
}

speak() {
  local prompt
  for prompt in "${prompts[@]}"; do
    echo
    OMP_NUM_THREADS=$cores build/xmoe generate --load demo/checkpoint --prompt "$prompt" --max-new-tokens 120 \
      --temperature 0.8 --top-p 0.95 --seed 1 || return
    echo
  done
}

begin=$SECONDS
say "Install what is missing" tools/install_dependencies.sh build test demo
say "Build build/xmoe" build
once text "Text: the King James Bible, every twentieth chapter held out" make_text
once tokenizer "Train a byte-level BPE tokenizer of $vocabulary tokens" train_tokenizer
once data "Tokenize the training text" prepare demo/text/bible.txt demo/train
once heldout "Tokenize the held-out text" prepare demo/heldout_text/bible.txt demo/heldout
once training "Train the model on $ranks MPI ranks" train "$(cat "$model" "$run" | cksum)"
say "Evaluate on the held-out text" evaluate
say "Let it speak" speak

printf '\n'
printf '%s\n' "${timings[@]}"
printf '%5d s  in all\n\n' $((SECONDS - begin))
bits=$(sed -n 's/.*"bits_per_byte": *\([0-9.eE+-]*\).*/\1/p' demo/evaluation.json)
LC_ALL=C printf 'held-out bits per byte: %.4f\n' "$bits"
