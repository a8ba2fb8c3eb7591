#!/bin/sh
# sutor estimate against what sutor train really takes: five settings, one step each, predicted and measured peak memory.
#
#   tests/estimate_check.sh [WORK]
#
# WORK (default: a temporary folder; 3 GB, made once, reused) gets a 1.06 B and a 0.12 B model and rows of tokens.
# SUTOR=build/sutor THREADS=0. Fails when a prediction is more than 10 % off.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${SUTOR:=$here/../build/sutor}" "${THREADS:=0}"
work=${1:-$(mktemp -d)}
[ $# -ge 1 ] || trap 'rm -rf "$work"' EXIT
mkdir -p "$work"

config() {  # vocabulary, hidden size, layers, experts, expert width, dense width
  cat <<END
{"model_type": "deepseek_v2", "vocab_size": $1, "hidden_size": $2, "num_hidden_layers": $3, "n_routed_experts": $4,
 "num_experts_per_tok": 6, "moe_intermediate_size": $5, "intermediate_size": $6, "num_attention_heads": 16,
 "kv_lora_rank": 256, "q_lora_rank": null, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64,
 "n_shared_experts": 2, "first_k_dense_replace": 1, "norm_topk_prob": false, "topk_method": "greedy",
 "max_position_embeddings": 4096, "bos_token_id": 1022, "eos_token_id": 1023, "torch_dtype": "bfloat16"}
END
}
model() {  # name, then config's arguments
  name=$1
  shift
  [ ! -f "$work/$name/config.json" ] || return 0
  mkdir -p "$work/$name.config"
  config "$@" >"$work/$name.config/config.json"
  cp "$here"/goldens/esft_train/model/tokenizer*.json "$work/$name.config"
  "$SUTOR" init "$work/$name.config" --out "$work/$name"
}
model mid 8192 1024 8 64 704 5472
model small 8192 512 4 16 704 2736
# 8 rows of each length (rows of ids are taken as they are), all trained but the first token; 6 experts of each layer of the larger model.
for seq in 256 512 2048; do
  awk -v n=$seq 'BEGIN { s = 1; for (r = 0; r < 8; r++) { ids = ""; for (t = 0; t < n; t++) { s = (s * 69069 + 1) % 4294967296
    ids = ids (t ? "," : "") int(s / 4194304) } printf "{\"input_ids\":[%s],\"labels\":[%s]}\n", ids, ids } }' >"$work/rows-$seq.jsonl"
done
awk 'BEGIN { printf "{\"experts\":{"; for (l = 1; l < 8; l++) { printf "%s\"%d\":[", (l > 1 ? "," : ""), l
  for (e = 0; e < 6; e++) printf "%s%d", (e ? "," : ""), (e * 11 + l) % 64; printf "]" }
  printf "},\"shared_experts\":false,\"non_expert_modules\":false}\n" }' >"$work/expert_cfg.json"

field() { sed -n "s/.*\"$1\": *\([0-9.]*\).*/\1/p" "$2" | head -1; }
worst=0
compare() {  # label, model, options of both commands
  label=$1 m=$work/$2
  shift 2
  rows=$work/rows-$(echo "$*" | sed 's/.*--seq \([0-9]*\).*/\1/').jsonl
  "$SUTOR" estimate "$m" --data "$rows" --packing none --threads "$THREADS" --json "$@" >"$work/estimate.json"
  rm -rf "$work/run"
  "$SUTOR" train "$m" --data "$rows" --packing none --order file --threads "$THREADS" --steps 1 --quiet --out "$work/run" \
    "$@" >/dev/null
  grep '"step":1' "$work/run/log.jsonl" >"$work/step.json"
  predicted=$(field peak_bytes "$work/estimate.json") measured=$(field peak_bytes "$work/step.json")
  rough=$(field rough_seconds_per_step "$work/estimate.json") took=$(field seconds "$work/step.json")
  rm -rf "$work/run"
  awk -v l="$label" -v p="$predicted" -v m="$measured" -v r="$rough" -v t="$took" 'BEGIN {
    printf "%-34s predicted %7.1f MiB  measured %7.1f MiB  %+5.1f %%   time: rough %5.1f s, took %5.1f s\n", l, p / 1048576,
      m / 1048576, 100 * (p / m - 1), r, t
    exit (p > 1.1 * m || p < 0.9 * m) }' || worst=1
}
esft="--method esft --experts $work/expert_cfg.json"
# shellcheck disable=SC2086  # lists of words on purpose
{
  compare "ESFT, 4 x 512" mid $esft --batch 4 --seq 512
  compare "ESFT, 1 x 2048, recompute" mid $esft --batch 1 --seq 2048 --recompute
  compare "ESFT, 2 x 512, 2 micro-batches" mid $esft --batch 2 --seq 512 --grad-accum 2
  compare "LoRA, 2 x 256" mid --method lora --batch 2 --seq 256
  compare "full, 0.12 B, 2 x 512" small --method full --batch 2 --seq 512
}
exit $worst
