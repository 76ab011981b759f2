#!/usr/bin/env bash
# Whatever a user or a file does wrong: one clear message from one rank, non-zero exit on all, no hang, nothing lost.
. "$(dirname "$0")/common.sh"
prepare_data
train --train-iters 2 --save good >good.log 2>&1 || { cat good.log; broken "the run that the others vary"; }

failures=0
# refused NAME PATTERNS... -- COMMAND...: the command fails in time, with one error message that matches all patterns.
refused() {
  local name="$1" patterns=() status=0 pattern problem=
  shift
  while [ "$1" != -- ]; do
    patterns+=("$1")
    shift
  done
  shift
  timeout 60 "$@" >"$name.log" 2>&1 || status=$?
  [ "$status" -ne 0 ] || problem="exit status 0"
  [ "$status" -ne 124 ] || problem="did not end within a minute"
  [ "$status" -lt 128 ] || [ "$status" -eq 255 ] || problem="ended by a signal (status $status)"
  local messages
  messages=$(grep -c 'error: ' "$name.log") || true
  [ "$messages" -eq 1 ] || problem="$problem; $messages error messages, expected 1"
  for pattern in "${patterns[@]}"; do
    grep -Eqi -- "$pattern" "$name.log" || problem="$problem; nothing matches '$pattern'"
  done
  if [ -n "$problem" ]; then
    failures=$((failures + 1))
    echo "--- $name: $problem"
    sed 's/^/    /' "$name.log" | head -30
  else
    echo "ok  $name: $(sed -n '/error: /,+1p' "$name.log" | tr -s '\n ' ' ' | cut -c 1-200)"
  fi
}

train_refused() {  # NAME PATTERNS... -- further flags; the good data and tokenizer unless they name their own
  local name="$1" patterns=() flags=("${common_flags[@]}")
  shift
  while [ "$1" != -- ]; do
    patterns+=("$1")
    shift
  done
  shift
  [[ " $* " == *" --data-path "* ]] || flags+=(--data-path data)
  [[ " $* " == *" --tokenizer "* ]] || flags+=(--tokenizer tokenizer.json)
  refused "$name" "${patterns[@]}" -- mpirun -n 2 "$xmoe" train "${flags[@]}" "$@"
}

copy_data() {  # NAME
  cp data.bin "$1.bin"
  cp data.idx "$1.idx"
}

# Data sets.
train_refused missing_data 'nowhere' -- --data-path nowhere
copy_data short_bin
truncate -s -10 short_bin.bin
train_refused truncated_bin 'short_bin\.bin' -- --data-path short_bin
copy_data bad_header
printf 'XXIDIDX' | dd of=bad_header.idx conv=notrunc status=none
train_refused wrong_header 'bad_header\.idx' -- --data-path bad_header
copy_data short_idx
truncate -s -5 short_idx.idx
train_refused truncated_idx 'short_idx\.idx' -- --data-path short_idx
copy_data large_token
printf '\xff\x7f' | dd of=large_token.bin bs=1 seek=40 conv=notrunc status=none
train_refused token_out_of_range 'large_token' '32767' 'document' 'offset' -- --data-path large_token --train-iters 40
refused inspect_token 'large_token' '32767' 'document' -- "$xmoe" data inspect large_token --tokenizer tokenizer.json
: >empty.bin
cp data.idx empty.idx
train_refused empty_bin 'empty\.bin' -- --data-path empty

# Tokenizers and text.
echo '{"pre_tokenizer": {"type": "BertPreTokenizer"}, "model": {"type": "WordPiece", "vocab": {"a": 0}}}' >bert.json
train_refused unsupported_tokenizer 'bert\.json' 'WordPiece|BertPreTokenizer' 'BPE|ByteLevel' -- --tokenizer bert.json
echo '{"model": ' >broken.json
train_refused corrupt_tokenizer 'broken\.json' -- --tokenizer broken.json
refused missing_text 'no_text\.txt' -- "$xmoe" data prepare --input no_text.txt --tokenizer tokenizer.json \
  --output-prefix out
[ ! -e out.bin ] && [ ! -e out.idx ] || broken "a data set was left behind by a failed preparation"
printf '{"text": "good"}\n{"txt": "bad"}\n' >lines.jsonl
refused jsonl_without_field 'lines\.jsonl' '2' 'text' -- "$xmoe" data prepare --input lines.jsonl \
  --tokenizer tokenizer.json --output-prefix out

# What only one rank lacks, all ranks give up.
mkdir elsewhere
cp data.bin data.idx tokenizer.json elsewhere
split_refused() {  # NAME PATTERNS... -- COMMAND...: rank 0 runs here, rank 1 in elsewhere/
  local name="$1" patterns=()
  shift
  while [ "$1" != -- ]; do
    patterns+=("$1")
    shift
  done
  shift
  refused "$name" "${patterns[@]}" -- mpirun -n 1 "$xmoe" "$@" : -n 1 -wdir "$PWD/elsewhere" "$xmoe" "$@"
}
rm elsewhere/data.bin
split_refused data_on_one_rank 'rank 1' 'data\.bin' -- train "${train_flags[@]}"
cp data.bin elsewhere
split_refused eval_on_one_rank 'rank 1' 'good' -- eval --load good --data-path data
split_refused generate_on_one_rank 'rank 1' 'good' -- generate --load good --prompt x
printf 'seed = 1\n' >own.toml
printf 'seed = 2\n' >elsewhere/own.toml
# Both have a checkpoint, but not the same one; both have the data, but not the same.
train_refused_apart() { split_refused "$1" "$2" 'rank 0' 'rank 1' -- train "${train_flags[@]}" "${@:3}"; }
mpirun -n 2 "$xmoe" train "${train_flags[@]}" --train-iters 2 --seed 5 --save elsewhere/other >>good.log 2>&1
mv elsewhere/other elsewhere/good
train_refused_apart checkpoints_differ 'checkpoint good/iter_0000002 must be the same' --load good
cp heldout.bin elsewhere/data.bin
cp heldout.idx elsewhere/data.idx
train_refused_apart data_differs 'what is trained on must be the same' --eval-iters 0
cp data.bin data.idx elsewhere
split_refused settings_of_one_rank 'rank 1' 'seed = 2 here, seed = 1 there' -- train "${train_flags[@]}" --config own.toml

# Flags and layouts.
train_refused unknown_flag 'no-such-flag' -- --no-such-flag 3
train_refused contradictions 'moe-router-topk' 'num-query-groups' -- --moe-router-topk 9 --num-query-groups 3
train_refused experts_and_ep 'num-experts' 'expert-model-parallel-size' -- --num-experts 7
train_refused ep_and_world 'expert-model-parallel-size' -- --expert-model-parallel-size 4
train_refused batch_and_world 'global-batch-size' -- --global-batch-size 6
CUDA_VISIBLE_DEVICES='' train_refused no_gpu 'error: --device cuda: .*(GPU|driver)' -- --device cuda
train_refused missing_config 'nowhere\.toml' -- --config nowhere.toml
printf 'num-layers = 2\nhidden-size = "wide"\n' >wrong.toml
train_refused wrong_config 'wrong\.toml' 'hidden-size' -- --config wrong.toml

# Numbers. Weights so large that products of two activations overflow, but not their own squares: a norm would hide those.
train_refused non_finite 'layer|embedding|norm' '3' -- --init-method-std 1e15

# Checkpoints.
"$xmoe" tokenizer train --input text.txt --vocab-size 280 --output narrow.json 2>>prepare.log
"$xmoe" data prepare --input text.txt --split-documents blank-line --tokenizer narrow.json --output-prefix narrow \
  2>>prepare.log
train --train-iters 1 --tokenizer narrow.json --data-path narrow --save narrow >>good.log 2>&1 ||
  { cat good.log; broken "a model of a small vocabulary"; }
train_refused another_model 'hidden-size' '32' '40' -- --hidden-size 40 --load good
train_refused another_vocabulary 'vocab-size' '350' 'finetune' -- --vocab-size 350 --load good
"$xmoe" tokenizer train --input heldout.txt --vocab-size 300 --output other.json 2>>prepare.log
cp good/tokenizer.json kept.json
train_refused another_tokenizer 'good' 'vocab-size' -- --tokenizer other.json --load good --save good
train_refused save_over_another 'good holds checkpoints of another training' 'iter_0000002' '--load good' -- --save good
cmp kept.json good/tokenizer.json || broken "a training that was refused replaced the tokenizer of the checkpoints"
refused eval_tokenizer 'tokens' 'trained with' -- "$xmoe" eval --load narrow --data-path heldout --tokenizer tokenizer.json
cp -r good flipped
shard=$(find flipped -name '*.safetensors' | sort | head -1)
printf '\x01\x02\x03\x04' | dd of="$shard" bs=1 seek=$(($(stat -c %s "$shard") - 100)) conv=notrunc status=none
train_refused corrupt_checkpoint 'flipped' 'checksum' -- --load flipped
cp -r good lost
rm "$(find lost -name '*.safetensors' | sort | head -1)"
train_refused missing_shard 'lost' -- --load lost
refused eval_without_checkpoint 'nothing_here' -- mpirun -n 2 "$xmoe" eval --load nothing_here --data-path heldout
refused generate_without_checkpoint 'nothing_here' -- "$xmoe" generate --load nothing_here --prompt x

# Places that cannot be written to.
train_refused save_below_a_file 'tokenizer\.json/run' 'directory' -- --save tokenizer.json/run
refused eval_output 'tokenizer\.json/eval' 'directory' -- "$xmoe" eval --load good --data-path heldout \
  --output tokenizer.json/eval
grep -l 'defect of xmoe' ./*.log && broken "a mistake of the user is called a defect"

# What was good before still is.
train --train-iters 3 --load good --metrics-file good.jsonl >>good.log 2>&1 || { cat good.log; broken "good checkpoint"; }
[ "$failures" -eq 0 ] || broken "$failures case(s)"
echo "passed"
