#!/usr/bin/env python3
"""Tiny seeded DeepSeek-V2 models with what the reference computes on them.

    python make_models.py [lite full plain]         # transformers 5 (requirements.txt)
    python make_models.py --impl authors normed     # the ESFT authors' code (requirements-authors.txt, $ESFT_DIR)
    python make_models.py --impl authors --check    # compare the stored goldens with another implementation

deepseek_v2/<model>/ is a hub folder and golden.safetensors (2 rows of 17 tokens, float32 compute, eager attention):
input_ids, labels, logits, loss, grad.<parameter> for every parameter, greedy (first 8 ids of row 0, then 16 more),
router.<layer>.weight|expert [B*T, K] in descending order of weight, act.<module> of each layer and of a few modules, and
logits_bf16 (bf16 weights and compute). Top-k and greedy choices have a margin, so they do not depend on rounding.

transformers has norm_topk_prob wrong for this family (it ignores the key; the authors normalise and then do not scale):
`normed` comes from the authors' code.
"""
import argparse
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
import transformers
from safetensors.torch import load_file

import hub

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "deepseek_v2")
F32, BF16 = torch.float32, torch.bfloat16

# Sizes deliberately uneven, widths all different. (file dtype, seed of weights and ids, gain, config keys)
# Seeds: margins as above, and bf16 chooses the same experts as float32.
BASE = dict(vocab_size=131, hidden_size=48, num_hidden_layers=3, intermediate_size=100, moe_intermediate_size=20,
            num_attention_heads=3, kv_lora_rank=24, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12)
MODELS = {
    "lite": (BF16, 29, 0.8, dict(BASE, n_routed_experts=8, num_experts_per_tok=3)),
    "full": (BF16, 39, 0.55, dict(BASE, n_routed_experts=12, num_experts_per_tok=4, q_lora_rank=28,
                            topk_method="group_limited_greedy", n_group=4, topk_group=2, routed_scaling_factor=16.0,
                            rms_norm_eps=1e-5, n_shared_experts=1,
                            rope_scaling=dict(hub.YARN, mscale=1.0, mscale_all_dim=0.707))),
    "plain": (BF16, 19, 0.8, dict(BASE, n_routed_experts=7, num_experts_per_tok=2, rope_scaling=None, rope_theta=500)),
    "normed": (F32, 32, 0.8, dict(BASE, num_hidden_layers=2, intermediate_size=60, n_routed_experts=5, num_experts_per_tok=2,
                            norm_topk_prob=True, routed_scaling_factor=2.5, n_shared_experts=1)),
}
ACTIVATIONS = ("model.embed_tokens", "model.layers.1.self_attn", "model.layers.1.mlp", "model.norm")


def load(folder, impl, dtype):
    if impl == "authors":
        sys.path.insert(0, os.environ["ESFT_DIR"])
        from deepseek.modeling_deepseek import DeepseekV2ForCausalLM as Model
        model = Model.from_pretrained(folder, torch_dtype=dtype, attn_implementation="eager")
    else:
        from transformers import DeepseekV2ForCausalLM as Model
        model = Model.from_pretrained(folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager")
    return model.eval()


def inputs(vocab, seed):
    ids = torch.randint(0, vocab, (2, 17), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[0, :5] = -100
    labels[1, :2] = labels[1, 9:12] = labels[1, 16:] = -100
    return ids, labels


def split_experts(name, g):
    """transformers 5 stacks a layer's experts: back to one tensor per expert, as in the checkpoint."""
    if name.endswith("experts.gate_up_proj"):
        for e in range(len(g)):
            for part, x in zip(("gate_proj", "up_proj"), g[e].chunk(2)):
                yield name.replace("gate_up_proj", f"{e}.{part}.weight"), x
    elif name.endswith("experts.down_proj"):
        for e in range(len(g)):
            yield name.replace("down_proj", f"{e}.down_proj.weight"), g[e]
    else:
        yield name, g


def margin(x, k):
    """Smallest gap between the k-th and the next value of the last dimension."""
    v = x.sort(dim=-1, descending=True).values
    return float((v[..., k - 1] - v[..., k]).min())


def reference(folder, impl, seed):
    model, c = load(folder, impl, F32), hub_config(folder)
    ids, labels = inputs(c["vocab_size"], seed)
    out, handles = {"input_ids": ids, "labels": labels}, []

    def keep(name):
        def hook(module, args, result):
            out["act." + name] = (result[0] if isinstance(result, tuple) else result).detach().clone()
        return hook

    def keep_router(i):
        def hook(module, args, result):
            expert, weight = (result[0], result[1]) if impl == "authors" else (result[2], result[1])
            weight, order = weight.detach().sort(dim=-1, descending=True)
            out[f"router.{i}.weight"], out[f"router.{i}.expert"] = weight, expert.gather(-1, order)
            p = (args[0].detach().reshape(-1, c["hidden_size"]) @ module.weight.detach().T).softmax(-1)
            if c["topk_method"] == "group_limited_greedy":
                best = p.view(len(p), c["n_group"], -1).amax(-1)
                assert margin(best, c["topk_group"]) > 1e-5, "two groups too close: change the seed"
                group = torch.zeros_like(best).scatter_(1, best.topk(c["topk_group"]).indices, 1)
                p = p * group.repeat_interleave(p.shape[1] // c["n_group"], 1)
            gap = margin(p, c["num_experts_per_tok"])
            assert gap > 1e-5, f"two experts too close ({gap}): change the seed"
        return hook

    modules = dict(model.named_modules())
    for name in ACTIVATIONS + tuple(f"model.layers.{i}" for i in range(c["num_hidden_layers"])):
        handles.append(modules[name].register_forward_hook(keep(name)))
    for i in range(c["first_k_dense_replace"], c["num_hidden_layers"]):
        handles.append(modules[f"model.layers.{i}.mlp.gate"].register_forward_hook(keep_router(i)))
    r = model(input_ids=ids, labels=labels, use_cache=False)
    for h in handles:
        h.remove()
    r.loss.backward()
    out["logits"], out["loss"] = r.logits.detach().float(), r.loss.detach().float()
    for name, p in model.named_parameters():
        # An expert that no token chose has no gradient in the authors' loop: it is zero.
        for n, g in split_experts(name, p.grad if p.grad is not None else torch.zeros_like(p)):
            out["grad." + n] = g.clone()
    assert {"grad." + n for n, _ in hub.shapes(c)} == {n for n in out if n.startswith("grad.")}

    with torch.no_grad():
        row = ids[:1, :8]
        for _ in range(16):
            last = model(input_ids=row, use_cache=False).logits[:, -1]
            assert margin(last, 1) > 1e-3, "two tokens too close: change the seed"
            row = torch.cat([row, last.argmax(-1, keepdim=True)], 1)
        out["greedy"] = row
        out["logits_bf16"] = load(folder, impl, BF16)(input_ids=ids, use_cache=False).logits.float()
    return out


def hub_config(folder):
    import json
    with open(os.path.join(folder, "config.json")) as f:
        return json.load(f)


def error(a, b):
    """Relative l2 error of two tensors."""
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm().clamp_min(1e-300))


def check(name, got, want):
    worst = {}
    for key, w in want.items():
        kind = key.split(".")[0]
        e = float((got[key] != w).sum()) if w.dtype == torch.int64 else error(got[key], w) if w.abs().max() > 0 else 0.0
        if key.endswith(".expert"):
            kind = "router.expert"
        worst[kind] = max(worst.get(kind, 0), e)
    print(name, " ".join(f"{k} {v:.1e}" for k, v in worst.items()))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("models", nargs="*", default=["lite", "full", "plain"])
    ap.add_argument("--impl", choices=["hf", "authors"], default="hf")
    ap.add_argument("--check", action="store_true")
    a = ap.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for name in a.models:
        dtype, seed, gain, keys = MODELS[name]
        folder = os.path.join(HERE, name)
        golden = os.path.join(folder, "golden.safetensors")
        if a.check:
            check(name, reference(folder, a.impl, seed), load_file(golden))
            continue
        n = hub.write_model(folder, hub.config(**keys, torch_dtype=str(dtype).split(".")[1]), seed, dtype, gain)
        out = reference(folder, a.impl, seed)
        made_by = ("deepseek-ai/ESFT, " if a.impl == "authors" else "") + \
            f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
        hub.write_tensors(golden, out, {"made_by": made_by})
        print(f"{name}: {n} parameters, loss {float(out['loss']):.4f}, logits std {float(out['logits'].std()):.2f}, "
              f"bf16 error {error(out['logits_bf16'], out['logits']):.1e}, {os.path.getsize(golden)} bytes")


if __name__ == "__main__":
    main()
