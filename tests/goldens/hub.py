"""Seeded random DeepSeek-V2 models as hub folders: config.json with the keys of the published configs (rope_theta and
rope_scaling, no rope_parameters), model.safetensors, optionally a tokenizer trained here.

Matrices are N(0, gain / sqrt(fan_in)), norm weights 1 + 0.05 N(0, 1) (a forgotten norm weight is noticed), router row e is
N(0, g_e / sqrt(H)) with g_e = 1.5 exp(spread N(0, 1)): some experts are clearly more popular. Every value is rounded to
bf16. Each tensor has its own generator, seeded from (seed, name): the order of writing does not matter.
"""
import json
import math
import os
import zlib

import torch
from safetensors.torch import save_file

YARN = {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 4096, "type": "yarn"}
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"

# The template of DeepSeek-V2-Lite-Chat.
CHAT_TEMPLATE = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'User: ' + message['content'] + '\n\n' }}{% elif message['role'] == 'assistant' %}"
    "{{ 'Assistant: ' + message['content'] + eos_token }}{% elif message['role'] == 'system' %}"
    "{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def config(**keys):
    """A DeepSeek-V2-Lite config.json with `keys` replaced or added."""
    c = {
        "architectures": ["DeepseekV2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "aux_loss_alpha": 0.001, "first_k_dense_replace": 1, "hidden_act": "silu", "initializer_range": 0.02,
        "max_position_embeddings": 163840, "model_type": "deepseek_v2", "moe_layer_freq": 1, "n_group": 1,
        "n_shared_experts": 2, "norm_topk_prob": False, "pretraining_tp": 1, "q_lora_rank": None, "rms_norm_eps": 1e-06,
        "rope_scaling": dict(YARN), "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax",
        "seq_aux": True, "tie_word_embeddings": False, "topk_group": 1, "topk_method": "greedy",
        "torch_dtype": "bfloat16", "transformers_version": "4.33.1", "use_cache": True,
    }
    c.update(keys)
    c.setdefault("num_key_value_heads", c["num_attention_heads"])
    c.setdefault("bos_token_id", c["vocab_size"] - 2)
    c.setdefault("eos_token_id", c["vocab_size"] - 1)
    return dict(sorted(c.items()))


def shapes(c):
    """(name, shape) of every tensor of the checkpoint, in layer order."""
    H, V, N, I = c["hidden_size"], c["vocab_size"], c["num_attention_heads"], c["moe_intermediate_size"]
    nope, rope, v, R, Q = (c[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank", "q_lora_rank"))

    def mlp(prefix, width):
        yield f"{prefix}.gate_proj.weight", (width, H)
        yield f"{prefix}.up_proj.weight", (width, H)
        yield f"{prefix}.down_proj.weight", (H, width)

    yield "model.embed_tokens.weight", (V, H)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}"
        a = f"{p}.self_attn"
        yield f"{p}.input_layernorm.weight", (H,)
        if Q is None:
            yield f"{a}.q_proj.weight", (N * (nope + rope), H)
        else:
            yield f"{a}.q_a_proj.weight", (Q, H)
            yield f"{a}.q_a_layernorm.weight", (Q,)
            yield f"{a}.q_b_proj.weight", (N * (nope + rope), Q)
        yield f"{a}.kv_a_proj_with_mqa.weight", (R + rope, H)
        yield f"{a}.kv_a_layernorm.weight", (R,)
        yield f"{a}.kv_b_proj.weight", (N * (nope + v), R)
        yield f"{a}.o_proj.weight", (H, N * v)
        yield f"{p}.post_attention_layernorm.weight", (H,)
        if i < c["first_k_dense_replace"]:
            yield from mlp(f"{p}.mlp", c["intermediate_size"])
        else:
            yield f"{p}.mlp.gate.weight", (c["n_routed_experts"], H)
            for e in range(c["n_routed_experts"]):
                yield from mlp(f"{p}.mlp.experts.{e}", I)
            yield from mlp(f"{p}.mlp.shared_experts", c["n_shared_experts"] * I)
    yield "model.norm.weight", (H,)
    yield "lm_head.weight", (V, H)


def tensor(name, shape, seed, gain, spread):
    g = torch.Generator().manual_seed((seed << 32) ^ zlib.crc32(name.encode()))
    x = torch.randn(shape, generator=g)
    if name.endswith(".bias"):
        x *= 0.2
    elif len(shape) == 1:
        x = 1 + 0.05 * x
    elif name.endswith((".mlp.gate.weight", ".block_sparse_moe.gate.weight")):
        x *= 1.5 * torch.exp(spread * torch.randn(shape[0], 1, generator=g)) / math.sqrt(shape[1])
    elif name == "model.embed_tokens.weight":
        x *= 0.5
    else:
        x *= (2 * gain if name == "lm_head.weight" else gain) / math.sqrt(shape[1])
    return x.to(torch.bfloat16)


def write_model(out, c, seed=1, dtype=torch.bfloat16, gain=0.8, spread=0.35):
    """config.json, generation_config.json and model.safetensors; returns the number of parameters."""
    os.makedirs(out, exist_ok=True)
    write_json(os.path.join(out, "config.json"), c)
    write_json(os.path.join(out, "generation_config.json"),
               {"_from_model_config": True, "bos_token_id": c["bos_token_id"], "eos_token_id": c["eos_token_id"],
                "do_sample": True, "temperature": 0.3, "top_p": 0.95, "transformers_version": "4.39.3"})
    weights = {n: tensor(n, s, seed, gain, spread).to(dtype) for n, s in shapes(c)}
    write_tensors(os.path.join(out, "model.safetensors"), weights, {"format": "pt"})
    return sum(w.numel() for w in weights.values())


def write_tensors(path, tensors, metadata):
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=metadata)
    os.chmod(path, 0o644)  # save_file makes it 0600


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1, ensure_ascii=False)
        f.write("\n")


def write_tokenizer(out, vocab, texts):
    """A byte-level BPE with DeepSeek's pre-tokenizer, trained on `texts`; bos and eos are the last two ids."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    tok = Tokenizer(models.BPE())
    # DeepSeek's second pattern lists the cased letters range by range; the classes here say the same.
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex("[\r\n]"), "isolated"),
        pre_tokenizers.Split(Regex(r"\s?[\p{Lu}\p{Ll}\p{Lt}]+"), "isolated"),
        pre_tokenizers.Split(Regex(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), "isolated"),
        pre_tokenizers.Split(Regex(r"\s+$"), "isolated"),
        pre_tokenizers.Split(Regex("[一-龥ࠀ-一가-퟿]+"), "isolated"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
    ])
    tok.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    tok.post_processor = processors.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=True)
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab - 2, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
        special_tokens=[]))
    if tok.get_vocab_size() != vocab - 2:
        raise SystemExit(f"the text gave only {tok.get_vocab_size()} of {vocab - 2} tokens")
    tok.add_special_tokens([AddedToken(t, normalized=True, special=True) for t in (BOS, EOS)])

    j = json.loads(tok.to_str())
    # "a b" strings: what DeepSeek's file has, and what tokenizers < 0.20 can read.
    j["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in j["model"]["merges"]]
    write_json(os.path.join(out, "tokenizer.json"), j)

    def added(t):
        return {"__type": "AddedToken", "content": t, "lstrip": False, "normalized": True, "rstrip": False,
                "single_word": False}

    write_json(os.path.join(out, "tokenizer_config.json"), {
        "add_bos_token": True, "add_eos_token": False, "bos_token": added(BOS), "clean_up_tokenization_spaces": False,
        "eos_token": added(EOS), "legacy": True, "model_max_length": 16384, "pad_token": added(EOS),
        "sp_model_kwargs": {}, "unk_token": None, "tokenizer_class": "LlamaTokenizerFast", "chat_template": CHAT_TEMPLATE})
