#!/usr/bin/env bash
# The steps that `xmoe --help` shows are steps that work, on less text and with fewer iterations.
configs="$(realpath "$(dirname "$0")/../../configs")"
. "$(dirname "$0")/common.sh"
make_text 60 book.txt
ln -s "$configs" configs
PATH="$(dirname "$xmoe"):$PATH"

"$xmoe" --help | sed -n '/step by step:/,/xmoe generate/p' | sed 1d |
  sed 's/--train-iters 1000/--train-iters 2 --global-batch-size 4 --eval-iters 1/; s/xmoe generate/& --max-new-tokens 8/' >steps.sh
[ "$(grep -c xmoe steps.sh)" -eq 5 ] || { cat steps.sh; broken "expected five commands in the help"; }
bash -euo pipefail steps.sh >steps.log 2>&1 || { cat steps.sh steps.log; broken "a step of the help fails"; }
grep -q 'bits per byte: [0-9]' steps.log || { cat steps.log; broken "nothing was evaluated"; }
grep -q 'Once upon a time' steps.log || { cat steps.log; broken "nothing was generated"; }
echo "passed"
