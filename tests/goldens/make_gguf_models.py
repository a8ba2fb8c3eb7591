"""The families' goldens as GGUF files, written with the PyPI package `gguf` by the rules of llama.cpp's convert_hf_to_gguf.py (names, keys,
the permutation of llama's q and k, fused experts), without a vocabulary.

    python tests/goldens/make_gguf_models.py tests/goldens/gguf
"""
import json
import re
import sys

import gguf
import torch
from safetensors.torch import load_file

out = sys.argv[1]
MODELS = {"llama": "llama/biased", "qwen2": "qwen2/plain", "qwen2_moe": "qwen2_moe/plain", "qwen3": "qwen3/plain",
          "qwen3_moe": "qwen3_moe/plain", "olmoe": "olmoe/clipped", "mixtral": "mixtral/plain", "deepseek_v2": "deepseek_v2/lite"}
ARCH = {"mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "deepseek_v2": "deepseek2"}
NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "self_attn.q_a_proj": "attn_q_a", "self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.q_b_proj": "attn_q_b",
         "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm", "self_attn.kv_b_proj": "attn_kv_b",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
         "mlp.shared_expert_gate": "ffn_gate_inp_shexp"}
NAMES |= {f"mlp.shared_expert{s}.{p}_proj": f"ffn_{p}_shexp" for s in ("", "s") for p in ("gate", "up", "down")}
EXPERT = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "w1": "gate", "w3": "up", "w2": "down"}


def permute(w, heads):
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def keys(w, c, family):
    arch = w.arch
    rope = c.get("rope_parameters") or c.get("rope_scaling") or {}
    heads, dim = c["num_attention_heads"], c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    w.add_block_count(c["num_hidden_layers"]), w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"]), w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(heads), w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_freq_base(rope.get("rope_theta", c.get("rope_theta", 10000.0)))
    w.add_vocab_size(c["vocab_size"]), w.add_tokenizer_model("no_vocab")
    if experts := c.get("num_local_experts") or c.get("num_experts") or c.get("n_routed_experts"):
        w.add_expert_count(experts), w.add_expert_used_count(c["num_experts_per_tok"])
        if width := c.get("moe_intermediate_size"):
            w.add_expert_feed_forward_length(width)
    if family != "deepseek_v2":
        w.add_head_count_kv(c.get("num_key_value_heads", heads))
        w.add_key_length(dim), w.add_value_length(dim), w.add_rope_dimension_count(dim)
    if family == "qwen2_moe":
        w.add_expert_shared_feed_forward_length(c["shared_expert_intermediate_size"])
    if c.get("clip_qkv"):
        w.add_clamp_kqv(c["clip_qkv"])
    if family == "deepseek_v2":
        w.add_head_count_kv(heads), w.add_kv_lora_rank(c["kv_lora_rank"]), w.add_rope_dimension_count(c["qk_rope_head_dim"])
        w.add_key_length(c["qk_nope_head_dim"] + c["qk_rope_head_dim"]), w.add_value_length(c["v_head_dim"])
        if c.get("q_lora_rank"):
            w.add_q_lora_rank(c["q_lora_rank"])
        w.add_leading_dense_block_count(c["first_k_dense_replace"]), w.add_expert_shared_count(c["n_shared_experts"])
        w.add_expert_weights_scale(c["routed_scaling_factor"]), w.add_expert_weights_norm(c["norm_topk_prob"])
        w.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)
        if rope.get("type", rope.get("rope_type")) == "yarn":
            w.add_rope_scaling_type(gguf.RopeScalingType.YARN), w.add_rope_scaling_factor(rope["factor"])
            w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
            w.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])
            w.add_rope_scaling_yarn_beta_fast(rope["beta_fast"]), w.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])


def add(w, name, t):
    if t.dim() == 1 or name.endswith("ffn_gate_inp.weight"):  # as the converter: norms, biases and routers stay float32
        w.add_tensor(name, t.float().numpy())
    else:
        w.add_tensor(name, t.contiguous().bfloat16().view(torch.uint8).numpy(), raw_dtype=gguf.GGMLQuantizationType.BF16)


for family, folder in MODELS.items():
    c, tensors = json.load(open(f"tests/goldens/{folder}/config.json")), load_file(f"tests/goldens/{folder}/model.safetensors")
    w = gguf.GGUFWriter(f"{out}/{family}.gguf", ARCH.get(family, family))
    keys(w, c, family)
    fused = {}
    for name, t in tensors.items():
        name = name.replace("block_sparse_moe", "mlp")
        top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
        if name in top:
            add(w, top[name], t)
            continue
        layer, rest = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", name).groups()
        if m := re.fullmatch(r"mlp\.experts\.(\d+)\.(\w+)\.weight", rest):
            fused.setdefault(f"blk.{layer}.ffn_{EXPERT[m[2]]}_exps.weight", {})[int(m[1])] = t
            continue
        module, leaf = rest.rsplit(".", 1)
        if w.arch == "llama" and module.endswith(("q_proj", "k_proj")):
            t = permute(t, c["num_attention_heads" if "q_proj" in module else "num_key_value_heads"])
        if module == "mlp.shared_expert_gate":
            t = t.squeeze(0)
        add(w, f"blk.{layer}.{NAMES[module]}.{leaf}", t)
    for name, parts in fused.items():
        add(w, name, torch.stack([parts[i] for i in range(len(parts))]))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
