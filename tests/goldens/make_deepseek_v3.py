#!/usr/bin/env python3
"""Tiny seeded DeepSeek-V3 models with what transformers computes on them: as make_models.py, whose helpers these are.

    python make_deepseek_v3.py          # requirements.txt

deepseek_v3/{full,lite}: hub folder and golden.safetensors (input_ids, labels, logits, loss, grad.<parameter>, greedy, logits_bf16).
`full` has the published config's keys (q_lora_rank, YaRN, groups) and a multi-token-prediction layer, which is ignored; `lite` is
what save_pretrained writes (rope_parameters, dtype), without q_lora_rank, groups of which all are eligible, weights not normalised.
deepseek_v3/fp8: `full` with FP8 E4M3 weights and weight_scale_inv per block of 128x128; its golden holds dequantised.<parameter>
(bf16) of some weights, and logits of the dequantised model. fp8_blocks.safetensors: odd sizes over several blocks, and NaN.
"""
import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
import transformers
from safetensors.torch import load_file
from transformers import DeepseekV3ForCausalLM

import hub
from make_models import error, hub_config, inputs, margin, split_experts

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "deepseek_v3")
F32, BF16, FP8 = torch.float32, torch.bfloat16, torch.float8_e4m3fn
BASE = dict(architectures=["DeepseekV3ForCausalLM"], model_type="deepseek_v3", vocab_size=131, hidden_size=48, num_hidden_layers=2,
            intermediate_size=100, moe_intermediate_size=20, num_attention_heads=3, kv_lora_rank=24, qk_nope_head_dim=16,
            qk_rope_head_dim=8, v_head_dim=12, scoring_func="sigmoid", topk_method="noaux_tc", norm_topk_prob=True,
            routed_scaling_factor=2.5, n_shared_experts=1, max_position_embeddings=163840, num_nextn_predict_layers=1)
MODELS = {
    "full": (1, 0.55, dict(BASE, n_routed_experts=12, num_experts_per_tok=4, q_lora_rank=28, n_group=4, topk_group=2,
                           rope_scaling=dict(hub.YARN, mscale=1.0, mscale_all_dim=1.0))),
    "lite": (6, 0.8, dict(BASE, n_routed_experts=8, num_experts_per_tok=3, n_group=2, topk_group=2, rope_scaling=None,
                          norm_topk_prob=False)),
}


def bias_of(name, n, seed):
    return (0.15 * torch.randn(n, generator=torch.Generator().manual_seed(seed + len(name)))).to(F32)


def weights_of(c, seed, gain):
    w = {n: hub.tensor(n, s, seed, gain, 0.35) for n, s in hub.shapes(c)}
    for i in range(c["first_k_dense_replace"], c["num_hidden_layers"]):
        n = f"model.layers.{i}.mlp.gate.e_score_correction_bias"
        w[n] = bias_of(n, c["n_routed_experts"], seed + i)
    return w


def load(folder, dtype):
    return DeepseekV3ForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager",
                                                 experts_implementation="eager").eval()


def reference(folder, seed, grads=True):
    model, c = load(folder, F32), hub_config(folder)
    ids, labels = inputs(c["vocab_size"], seed)
    out = {"input_ids": ids, "labels": labels}

    def check_margins(module, args, result):
        p = (args[0].detach().reshape(-1, c["hidden_size"]) @ module.weight.detach().T).sigmoid() + module.e_score_correction_bias
        best = p.view(len(p), c["n_group"], -1).topk(2, -1).values.sum(-1)
        assert c["topk_group"] == c["n_group"] or margin(best, c["topk_group"]) > 1e-5, "two groups too close: change the seed"
        group = torch.zeros_like(best).scatter_(1, best.topk(c["topk_group"]).indices, 1)
        p = p.masked_fill(group.repeat_interleave(p.shape[1] // c["n_group"], 1) == 0, -9)
        assert margin(p, c["num_experts_per_tok"]) > 1e-5, "two experts too close: change the seed"

    handles = [m.register_forward_hook(check_margins) for n, m in model.named_modules() if n.endswith("mlp.gate")]
    r = model(input_ids=ids, labels=labels, use_cache=False)
    for h in handles:
        h.remove()
    out["logits"], out["loss"] = r.logits.detach().float(), r.loss.detach().float()
    if grads:
        r.loss.backward()
        for name, p in model.named_parameters():
            for n, g in split_experts(name, p.grad if p.grad is not None else torch.zeros_like(p)):
                out["grad." + n] = g.clone()
    with torch.no_grad():
        row = ids[:1, :8]
        for _ in range(16):
            last = model(input_ids=row, use_cache=False).logits[:, -1]
            assert margin(last, 1) > 1e-3, "two tokens too close: change the seed"
            row = torch.cat([row, last.argmax(-1, keepdim=True)], 1)
        out["greedy"] = row
        out["logits_bf16"] = load(folder, BF16)(input_ids=ids, use_cache=False).logits.float()
    return out


def blocks(scale, shape):
    return scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:shape[0], :shape[1]]


def to_fp8(w):
    """Codes and weight_scale_inv of a matrix: the largest of each block becomes 448."""
    rows, cols = -(-w.shape[0] // 128), -(-w.shape[1] // 128)
    padded = torch.zeros(rows * 128, cols * 128)
    padded[:w.shape[0], :w.shape[1]] = w
    top = padded.view(rows, 128, cols, 128).abs().amax((1, 3)).clamp_min(1e-12)
    inv = top / 448
    return (w / blocks(inv, w.shape)).to(FP8), inv


def from_fp8(codes, inv):
    return (codes.to(F32) * blocks(inv, codes.shape)).to(BF16)


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    made_by = {"made_by": f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"}
    shutil.rmtree(HERE, ignore_errors=True)
    for name, (seed, gain, keys) in MODELS.items():
        folder = os.path.join(HERE, name)
        os.makedirs(folder)
        c = hub.config(**keys)
        w = weights_of(c, seed, gain)
        hub.write_json(os.path.join(folder, "config.json"), c)
        if name == "full":  # a multi-token-prediction layer
            mtp = {n.replace("layers.1.", "layers.2."): t.clone() for n, t in w.items() if "layers.1.mlp.gate" in n}
            mtp.update({"model.layers.2.eh_proj.weight": torch.zeros(48, 96, dtype=BF16),
                        "model.layers.2.enorm.weight": torch.ones(48, dtype=BF16)})
            hub.write_tensors(os.path.join(folder, "model.safetensors"), {**w, **mtp}, {"format": "pt"})
        else:
            hub.write_tensors(os.path.join(folder, "model.safetensors"), w, {"format": "pt"})
            load(folder, BF16).save_pretrained(folder)
            os.chmod(os.path.join(folder, "model.safetensors"), 0o644)
        out = reference(folder, seed)
        hub.write_tensors(os.path.join(folder, "golden.safetensors"), out, made_by)
        print(f"{name}: loss {float(out['loss']):.4f}, bf16 error {error(out['logits_bf16'], out['logits']):.1e}")

    seed, gain, keys = MODELS["full"]
    folder, plain = os.path.join(HERE, "fp8"), os.path.join(HERE, "fp8-plain")
    os.makedirs(folder), os.makedirs(plain)
    c = hub.config(**keys)
    w, quantised, golden = weights_of(c, seed, gain), {}, {}
    for n, t in w.items():
        if t.dim() == 2 and "embed" not in n and "lm_head" not in n and "mlp.gate" not in n:
            quantised[n], quantised[n + "_scale_inv"] = to_fp8(t.float())
            w[n] = from_fp8(quantised[n], quantised[n + "_scale_inv"])
            if "layers.1." in n and ("experts.3." in n or "attn" in n):
                golden["dequantised." + n] = w[n]
        else:
            quantised[n] = t
    hub.write_json(os.path.join(plain, "config.json"), c)
    hub.write_tensors(os.path.join(plain, "model.safetensors"), w, {"format": "pt"})
    hub.write_json(os.path.join(folder, "config.json"), dict(c, quantization_config={
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}))
    hub.write_tensors(os.path.join(folder, "model.safetensors"), quantised, {"format": "pt"})
    out = reference(plain, seed, grads=False)
    hub.write_tensors(os.path.join(folder, "golden.safetensors"), {**out, **golden}, made_by)
    shutil.rmtree(plain)

    g = torch.Generator().manual_seed(1)
    codes, inv = to_fp8(torch.randn(150, 260, generator=g) * torch.rand(150, 1, generator=g) * 3)
    codes.view(torch.uint8)[0, :256] = torch.arange(256, dtype=torch.uint8)  # every code, both NaN
    hub.write_tensors(os.path.join(HERE, "fp8_blocks.safetensors"),
                      {"w": codes, "w_scale_inv": inv, "golden": from_fp8(codes, inv)}, made_by)


if __name__ == "__main__":
    main()
