#!/bin/sh
# Trains an embedded model anew with this engine: toy language -> random weights -> full training.
# Usage: recipes/embedded/make.sh [embedded|embedded-dense [WORK]]   (make embedded-model, embedded-dense-model; about 40 minutes
# on 2 cores, the dense one about 20). Both learn the same rows with the same settings, pretrain.yaml.
# Bitwise the same on machines whose kernels round alike (`sutor env`: kernels_used); the committed
# weights were made with avx2 kernels in bf16.
set -eu
name=${1:-embedded}
recipes=$(cd "$(dirname "$0")/.." && pwd)
to=$recipes/$name
sutor=${SUTOR:-$recipes/../build/sutor}
work=${2:-$recipes/../build/$name}
case $name in
  embedded) more= ;;
  embedded-dense) more="--aux-loss 0" ;;  # it has no router
  *) sed -n '3,4s/^# //p' "$0" >&2; exit 2 ;;
esac
[ -x "$sutor" ] || { echo "$sutor: not there; run make first" >&2; exit 1; }
rm -rf "$work"
mkdir -p "$work/start"
"$sutor" demo-data --out "$work/data" --pretrain-rows 300000
cp "$to/config.json" "$work/data/tokenizer.json" "$work/data/tokenizer_config.json" "$work/start"
"$sutor" init "$work/start" --seed 1 --out "$work/init"
# shellcheck disable=SC2086
"$sutor" train "$work/init" --data "$work/data/pretrain.jsonl" --config "$recipes/embedded/pretrain.yaml" $more --out "$work/run"
"$sutor" eval "$work/run/model" --data "$work/data/eval/general.jsonl" --metric exact --max-tokens 64
if [ "$name" = embedded ]; then
  cp "$work/run/model/"* "$to"
else  # the tokenizer is that of recipes/embedded
  cp "$work/run/model/config.json" "$work/run/model/model.safetensors" "$to"
fi
