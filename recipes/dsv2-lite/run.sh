#!/bin/sh
# A 16-billion-parameter model fine-tuned in 24 GB: DeepSeek-V2-Lite's true shapes with random weights in NF4, the paper's experts
# for `intent`, on the intent data; two steps, a checkpoint, two more after --resume. What it shows is memory and speed, not learning.
#
#   recipes/dsv2-lite/run.sh INTENT-CONFIG.json INTENT.jsonl WORK
#
# INTENT-CONFIG.json, INTENT.jsonl: results/expert_configs/intent.json and datasets/train/intent.jsonl of deepseek-ai/ESFT.
# WORK gets 9 GB of model, two checkpoints of 6.4 GB and 2 GB of adapter. Text is cut by the embedded model's tokenizer (512 ids of the 102400).
# SUTOR=build/sutor THREADS=2 STEPS=2. Needs 20 GB of free memory.
set -eu
[ $# -eq 3 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
experts=$1 data=$2 work=$3
: "${SUTOR:=$here/../../build/sutor}" "${THREADS:=2}" "${STEPS:=2}"
mkdir -p "$work/start"
cp "$here/config.json" "$here/../embedded/tokenizer.json" "$here/../embedded/tokenizer_config.json" "$work/start"
[ -d "$work/model" ] || "$SUTOR" init "$work/start" --seed 1 --weights NF4 --out "$work/model"
rm -rf "$work/run"
set -- "$work/model" --config "$here/../dsv2-lite-24gb.yaml" --experts "$experts" --data "$data" --threads "$THREADS" --out "$work/run"
"$SUTOR" estimate "$work/model" --method esft --experts "$experts" --optimizer adamw8bit --recompute --dtype bf16 --batch 1 --seq 768
"$SUTOR" train "$@" --steps "$STEPS" --save-every "$STEPS"
"$SUTOR" train "$@" --steps $((2 * STEPS)) --save-every $((2 * STEPS)) --resume
