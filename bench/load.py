"""Of the folder DIR/st: the same as DIR/bin (torch), and DIR/<type>.gguf with random blocks of that type (bench/load.sh)."""
import os
import shutil
import sys

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

dir = sys.argv[1]
os.makedirs(f"{dir}/bin", exist_ok=True)
shutil.copy(f"{dir}/st/config.json", f"{dir}/bin/config.json")
tensors = load_file(f"{dir}/st/model.safetensors")
torch.save(tensors, f"{dir}/bin/pytorch_model.bin")
NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
HALVES = {"Q8_0": [0], "Q4_K": [0, 2], "Q6_K": [208]}
rng = np.random.default_rng(1)
for name, halves in HALVES.items():
    kind = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    w = gguf.GGUFWriter(f"{dir}/{name}.gguf", "llama")
    w.add_block_count(15), w.add_context_length(4096), w.add_embedding_length(2048), w.add_feed_forward_length(8192)
    w.add_head_count(32), w.add_head_count_kv(8), w.add_layer_norm_rms_eps(1e-5), w.add_vocab_size(32000)
    pool = rng.integers(0, 256, (1 << 16, size), dtype=np.uint8)
    for at in halves:
        pool[:, at:at + 2] = (rng.standard_normal((len(pool), 1)) * 0.001).astype(np.float16).view(np.uint8)
    for key, t in tensors.items():
        key = key.removesuffix(".weight")
        if key in TOP:
            to = TOP[key]
        else:
            _, _, layer, module = key.split(".", 3)
            to = f"blk.{layer}.{NAMES[module]}"
        if t.dim() == 1:
            w.add_tensor(f"{to}.weight", t.float().numpy())
        else:
            blocks = np.resize(pool, (t.numel() // elements, size))
            w.add_tensor(f"{to}.weight", blocks.reshape(t.shape[0], -1), raw_dtype=kind)
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
