#!/bin/sh
# Trains the embedded model anew with this engine: toy language -> random weights -> full training.
# Usage: recipes/embedded/make.sh [WORK]   (make embedded-model; about 40 minutes on 2 cores)
# Bitwise the same on machines whose kernels round alike (`sutor env`: kernels_used); the committed
# weights were made with avx2 kernels in bf16.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
sutor=${SUTOR:-$here/../../build/sutor}
work=${1:-$here/../../build/embedded}
[ -x "$sutor" ] || { echo "$sutor: not there; run make first" >&2; exit 1; }
rm -rf "$work"
mkdir -p "$work/start"
"$sutor" demo-data --out "$work/data" --pretrain-rows 300000
cp "$here/config.json" "$work/data/tokenizer.json" "$work/data/tokenizer_config.json" "$work/start"
"$sutor" init "$work/start" --seed 1 --out "$work/init"
"$sutor" train "$work/init" --data "$work/data/pretrain.jsonl" --config "$here/pretrain.yaml" --out "$work/run"
"$sutor" eval "$work/run/model" --data "$work/data/eval/general.jsonl" --metric exact --max-tokens 64
cp "$work/run/model/"* "$here"
