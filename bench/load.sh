#!/bin/sh
# How long until a 2 GB model is ready to run, from a warm page cache: `sutor trace` of one token, start to end, of a hub folder in safetensors, the same as
# pytorch_model.bin, and as GGUF (Q8_0, Q4_K, Q6_K), whose blocks are unpacked. Needs python3 with torch, numpy, gguf, safetensors and 8 GB in DIR.
#   PYTHON=venv/bin/python bench/load.sh [DIR]
set -eu
cd "$(dirname "$0")/.."
dir=${1:-build/bench-load}
sutor=${SUTOR:-build/sutor}
python=${PYTHON:-python3}
mkdir -p "$dir"
if [ ! -d "$dir/st" ]; then
  cat >"$dir/config.json" <<EOF
{"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 15, "num_attention_heads": 32,
 "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
 "tie_word_embeddings": false, "hidden_act": "silu"}
EOF
  "$sutor" init "$dir/config.json" --out "$dir/st" --quiet
fi
[ -f "$dir/Q6_K.gguf" ] || "$python" bench/load.py "$dir"
[ -f "$dir/ids.safetensors" ] || "$python" -c "import torch, sys; from safetensors.torch import save_file
save_file({'input_ids': torch.tensor([[5]])}, sys.argv[1])" "$dir/ids.safetensors"
for model in st bin Q8_0.gguf Q4_K.gguf Q6_K.gguf; do
  for dtype in bf16 f32; do
    unpack="--dtype $dtype"
    case $model-$dtype in st-f32 | bin-f32) continue ;; st-bf16 | bin-bf16) unpack= ;; esac
    bytes=$(du -sbL "$dir/$model" | cut -f1)
    find "$dir/$model" -type f -exec cat {} + >/dev/null
    for run in 1 2 3; do
      begin=$(date +%s%N)
      "$sutor" trace "$dir/$model" $unpack --input "$dir/ids.safetensors" --out "$dir/out.safetensors" --quiet >/dev/null
      end=$(date +%s%N)
      rm "$dir/out.safetensors"
      echo "$model $dtype $bytes $begin $end"
    done | awk '{t = ($5 - $4) / 1e9; if (!best || t < best) best = t} END {printf "%-10s %-5s %6.2f GB in %6.3f s: %6.2f GB/s\n", $1, $2, $3 / 1e9, best, $3 / 1e9 / best}'
  done
done
