#!/usr/bin/env python3
"""Tiny seeded models of the PESC families (one FFN, adapters as experts behind it), with what their own code computes on them.

    PESC_DIR=... python make_pesc.py camelidae         # the authors' code (requirements-pesc.txt)
    SPARSETRAL_DIR=... python make_pesc.py sparsetral  # serp-ai's fork of it (requirements-authors.txt)
    python make_pesc.py qwen2idae                      # transformers 5 (requirements.txt): a restatement, see below
    python make_pesc.py --check                        # transformers 5: the restatement against every stored golden

PESC_DIR is a checkout of wuhy68/Parameter-Efficient-MoE, SPARSETRAL_DIR one of serp-ai/Parameter-Efficient-MoE. The folders are
laid out as make_families.py lays out its own (names, margins, the share of `weights`); no weight is zero, so every
gradient is alive.

No code of Qwen2idae was ever published: its goldens are this file's PescMLP behind transformers' Qwen2, the names and keys those
of the published Camelidae. --check shows that PescMLP behind transformers' LLaMA and Mistral gives what the authors' codes give.

The authors' code always rotates with base 10000 (rope_theta is not read), Sparsetral's and Qwen2's with rope_theta. No golden has
a sliding window: transformers 4.44 lets a token see one key too many. camelidae/first has the model_type "llama" of the first uploads.
"""
import argparse
import json
import math
import os
import sys
import zlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
import transformers
from safetensors.torch import load_file
from torch import nn

import hub
from make_models import inputs, margin

HERE = os.path.dirname(os.path.abspath(__file__))
F32, BF16 = torch.float32, torch.bfloat16
SIZES = dict(hidden_size=48, intermediate_size=76, num_hidden_layers=3, num_attention_heads=6, max_position_embeddings=512,
             rms_norm_eps=1e-5, tie_word_embeddings=False, num_experts=5, topk=2, adapter_dim=12, moe_dtype="bfloat16")
CAMELIDAE = dict(SIZES, pretraining_tp=1, output_router_logits=False, rope_scaling=None, torch_dtype="bfloat16", auto_map={
    "AutoConfig": "configuration_camelidae.CamelidaeConfig", "AutoModelForCausalLM": "modeling_camelidae.LlamaForCausalLM"})
MODELS = {
    "camelidae": {
        "unit": dict(CAMELIDAE, moe_scaling=1, num_key_value_heads=6),
        "quarter": dict(CAMELIDAE, moe_scaling=0.25, num_key_value_heads=2, num_hidden_layers=2, rope_theta=10000.0),
        "first": ("unit", dict(CAMELIDAE, model_type="llama", moe_scaling=1, num_key_value_heads=6)),
    },
    "sparsetral": {
        "plain": dict(SIZES, moe_scaling=1.0, num_key_value_heads=2, num_experts=7, topk=3, adapter_dropout=0.0, rope_theta=500.0,
                      sliding_window=None, attention_dropout=0.0, output_router_logits=True, router_aux_loss_coef=0.01,
                      torch_dtype="bfloat16", auto_map={"AutoConfig": "configuration_sparsetral.SparsetralConfig",
                                                        "AutoModelForCausalLM": "modeling_sparsetral.MistralForCausalLM"}),
    },
    "qwen2idae": {
        "plain": dict(SIZES, moe_scaling=0.25, num_key_value_heads=2, output_router_logits=False, rope_theta=500.0,
                      use_sliding_window=False, sliding_window=32, max_window_layers=2, torch_dtype="bfloat16"),
    },
}
MADE_BY = {"camelidae": "wuhy68/Parameter-Efficient-MoE, ", "sparsetral": "serp-ai/Parameter-Efficient-MoE, ",
           "qwen2idae": "make_pesc.py's PescMLP on "}


class PescMLP(nn.Module):
    """y = F + s sum_k w_k up_k(gelu(down_k(F))), F = down(silu(gate x) * up x); w = softmax of the router's top k logits of x."""

    def __init__(self, mlp, config, expert_name):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self.topk, self.scaling = config.topk, config.moe_scaling
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.moe_adapter = nn.Module()
        self.moe_adapter.router = linear(config.hidden_size, config.num_experts)
        self.moe_adapter.experts = nn.ModuleDict()
        for e in range(config.num_experts):
            expert = nn.Module()
            expert.adapter_down = linear(config.hidden_size, config.adapter_dim)
            expert.adapter_up = linear(config.adapter_dim, config.hidden_size)
            self.moe_adapter.experts[expert_name.format(e)] = expert

    def forward(self, x):
        f = self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))
        logits, chosen = self.moe_adapter.router(x).topk(self.topk, -1)
        weights = logits.softmax(-1)
        y = f
        for e, expert in enumerate(self.moe_adapter.experts.values()):
            w = (weights * (chosen == e)).sum(-1, keepdim=True)
            y = y + w * (self.scaling * expert.adapter_up(nn.functional.gelu(expert.adapter_down(f))))
        return y


def build_restated(folder, family):
    with open(os.path.join(folder, "config.json")) as f:
        keys = json.load(f)
    dense = {"camelidae": "llama", "sparsetral": "mistral", "qwen2idae": "qwen2"}[family]
    drop = ("model_type", "auto_map", "architectures", "torch_dtype", "moe_dtype", "output_router_logits")
    config = transformers.AutoConfig.for_model(dense, **{k: v for k, v in keys.items() if k not in drop and v is not None})
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config)
    for layer in model.model.layers:
        layer.mlp = PescMLP(layer.mlp, config, "{}" if family == "sparsetral" else "expert_{}")
    return model


def build(folder, family):
    if family == "camelidae":
        sys.path.insert(0, os.environ["PESC_DIR"])
        from camelidae.configuration_camelidae import CamelidaeConfig
        from camelidae.modeling_camelidae import LlamaForCausalLM
        return LlamaForCausalLM(CamelidaeConfig.from_pretrained(folder))
    if family == "sparsetral":
        sys.path.insert(0, os.environ["SPARSETRAL_DIR"])
        from sparsetral.configuration_sparsetral import SparsetralConfig
        from sparsetral.modeling_sparsetral import MistralForCausalLM
        return MistralForCausalLM._from_config(SparsetralConfig.from_pretrained(folder), attn_implementation="eager")
    return build_restated(folder, family)


def write_config(folder, family, keys):
    architecture = keys.get("auto_map", {}).get("AutoModelForCausalLM", "modeling_qwen2idae.Qwen2ForCausalLM")
    hub.write_json(os.path.join(folder, "config.json"), dict(sorted(dict(dict(
        model_type=family, architectures=[architecture], vocab_size=131, hidden_act="silu", bos_token_id=129, eos_token_id=130,
        pad_token_id=None, initializer_range=0.02), **keys).items())))


def tensor(name, shape, seed):
    """As hub.tensor; adapters large enough to change the logits, routers uneven."""
    g = torch.Generator().manual_seed((seed << 32) ^ zlib.crc32(name.encode()))
    x = torch.randn(shape, generator=g) / math.sqrt(shape[-1])
    if name.endswith("router.weight"):
        return (x * 1.5 * torch.exp(0.35 * torch.randn(shape[0], 1, generator=g))).to(BF16)
    if ".adapter_" in name:
        return (x * (2.5 if name.endswith("down.weight") else 0.8)).to(BF16)
    return hub.tensor(name, shape, seed, 0.8, 0.35)


def angle(a, b):
    a, b = a.detach().double(), b.detach().double()
    return float(1 - 2 * (a * b).sum() / ((a * a).sum() + (b * b).sum()))


class TooClose(Exception):
    pass


def reference(build, folder, family, weights, ids, labels, grads):
    """What the golden holds; TooClose when a choice hangs on rounding."""

    def run(dtype):
        model, chosen, gaps = build(folder, family), [], []
        model.load_state_dict(load_file(weights))
        model = model.to(dtype).eval()

        def keep_router(module, args, logits):
            k = model.config.topk
            chosen.append(logits.topk(k, -1).indices.sort(-1).values)
            gaps.append(margin(logits.detach().float().softmax(-1), k))
        for name, m in model.named_modules():
            if name.endswith("moe_adapter.router"):
                m.register_forward_hook(keep_router)
        result = model(input_ids=ids, use_cache=False)
        # The shifted cross-entropy alone: Sparsetral's own adds its router loss, which is a constant.
        logits = result.logits.float()
        loss = nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 131), labels[:, 1:].reshape(-1))
        return model, logits, loss, chosen, gaps

    model, logits, loss, chosen, gaps = run(F32)
    if min(gaps) < 1e-4:
        raise TooClose("two experts")
    _, half, _, half_chosen, _ = run(BF16)
    if any((a.view(-1) != b.view(-1)).any() for a, b in zip(chosen, half_chosen)):
        raise TooClose("bf16 chooses other experts")
    if angle(half, logits) > 5e-5:
        raise TooClose("bf16 logits")
    out = {"input_ids": ids, "labels": labels, "logits": logits.detach(), "loss": loss.detach()}
    if grads:
        loss.backward()
        for name, p in model.named_parameters():
            out["grad." + name] = p.grad.clone()
        dead = [n for n, t in out.items() if n.startswith("grad.") and float(t.norm()) == 0]
        if dead:
            raise TooClose(f"no token for {dead[0]}")
    with torch.no_grad():
        row, fed, cache = ids[:1, :8], ids[:1, :8], None
        for _ in range(16):
            step = model(input_ids=fed, past_key_values=cache, use_cache=True)
            last, cache = step.logits[:, -1], step.past_key_values
            if margin(last, 1) < 1e-2:
                raise TooClose("two tokens")
            fed = last.argmax(-1, keepdim=True)
            row = torch.cat([row, fed], 1)
        out["greedy"] = row
    return out


def make(family, name):
    keys = MODELS[family][name]
    base, keys = keys if isinstance(keys, tuple) else (None, keys)
    folder = os.path.join(HERE, family, name)
    os.makedirs(folder, exist_ok=True)
    write_config(folder, family, keys)
    weights = os.path.join(HERE, family, base or name, "model.safetensors")
    shapes = {n: tuple(t.shape) for n, t in build(folder, family).state_dict().items()}
    for seed in range(1, 1000):
        if not base:
            hub.write_tensors(weights, {n: tensor(n, s, seed) for n, s in shapes.items()}, {"format": "pt"})
        try:
            out = reference(build, folder, family, weights, *inputs(131, seed), not base)
            break
        except TooClose as e:
            print(f"  seed {seed}: {e}")
    made_by = MADE_BY[family] + f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
    golden = os.path.join(folder, "golden.safetensors")
    hub.write_tensors(golden, out, {"made_by": made_by, **({"weights": base} if base else {})})
    print(f"{family}/{name}: seed {seed}, loss {float(out['loss']):.4f}, logits std {float(out['logits'].std()):.2f}, "
          f"{os.path.getsize(golden)} bytes")


def check(family, name):
    base = MODELS[family][name]
    base = base[0] if isinstance(base, tuple) else name
    folder = os.path.join(HERE, family, name)
    want = load_file(os.path.join(folder, "golden.safetensors"))
    got = reference(build_restated, folder, family, os.path.join(HERE, family, base, "model.safetensors"), want["input_ids"],
                    want["labels"], base == name)
    assert got.keys() == want.keys()
    worst = {}
    for key, w in want.items():
        e = float((got[key].double() - w.double()).abs().max() / w.double().abs().max())
        worst[key.split(".")[0]] = max(worst.get(key.split(".")[0], 0), e)
    print(f"{family}/{name}", " ".join(f"{k} {v:.1e}" for k, v in worst.items()))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("families", nargs="*", default=[])
    ap.add_argument("--check", action="store_true")
    a = ap.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for family in a.families or (MODELS if a.check else ap.error("which families?")):
        for name in MODELS[family]:
            (check if a.check else make)(family, name)


if __name__ == "__main__":
    main()
