#!/usr/bin/env python3
"""docs/families.md from what the tests and check_exports.py measured.

    SUTOR_FAMILIES_OUT=build/families.jsonl make test TEST_ARGS='-tc=families*'
    python make_families_table.py build/families.jsonl
"""
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PESC = ("softmax over the chosen; experts are adapters behind one MLP", "Switch, all layers")
ROUTERS = {
    "camelidae": PESC,
    "qwen2idae": PESC,
    "sparsetral": PESC,
    "deepseek_v2": ("softmax; `norm_topk_prob`; groups", "per sequence or batch"),
    "deepseek_v3": ("sigmoid + selection bias, groups, renormalised", "per sequence, normalised scores"),
    "mixtral": ("softmax, renormalised", "Switch, all layers"),
    "qwen2_moe": ("softmax; `norm_topk_prob`", "Switch, all layers"),
    "qwen3_moe": ("softmax; `norm_topk_prob`", "Switch, all layers"),
    "olmoe": ("softmax; `norm_topk_prob`", "Switch, all layers"),
}
HEAD = """# Families

Made by `tests/goldens/make_families_table.py` from what `tests/families.cpp` measures against transformers 5.23 (float32; deepseek_v2/normed,
camelidae and sparsetral: their authors' code; qwen2idae, whose code was never published: a restatement on transformers' Qwen2) and
`tests/goldens/check_exports.py` against transformers 5.23 (camelidae, sparsetral: their authors' code) and peft. Errors are the largest difference relative to
the largest value; the tests allow 1e-5 on logits and loss, 1e-4 on gradients, 1e-4 on the bf16 angle 1 - 2<a,b>/(|a|^2+|b|^2); greedy
tokens, through the KV cache, are identical.

| golden | logits | loss | worst gradient | bf16 angle |
|---|---:|---:|---:|---:|
"""
MIDDLE = """
What each family can do; numbers are differences of logits, float32, between Sutor and the library that opened what Sutor wrote:

| family | router | balance loss | scored, selected, trained by ESFT, merged -> transformers | trained in full -> transformers | LoRA merged -> transformers | LoRA adapter -> peft |
|---|---|---|---:|---:|---:|---:|
"""
TAIL = """
Adapters are opened by peft 0.18 under transformers 4.57, where every expert is a module of its own: under transformers 5, which fuses
experts, peft's conversion drops LoRA on shared experts and dense MLPs (and 4.57 leaves YaRN's mscale out of DeepSeek-V2: its adapter is checked
on the golden without YaRN). Sutor reads what both write (`tests/peft.cpp`).

- Score functions: `--score token` counts choices; `--score gate` sums the weights that the router gives (before `routed_scaling_factor`):
  where a family renormalises them a layer's scores add up to 1, elsewhere to less. `--normalise-gate` makes them comparable.
- Balance losses are on by default where the router trains and config.json asks for one (`aux_loss_alpha`; `output_router_logits` true),
  off with a notice where it is frozen; `--aux-loss` decides otherwise. DeepSeek-V3's selection bias is never trained.
- DeepSeek-V3: FP8 E4M3 weights in blocks of 128x128 (`weight_scale_inv`) are read as bf16 and written as bf16; the multi-token-prediction
  layer is left out, with a notice.
- Camelidae, Qwen2idae, Sparsetral (PESC): told by `adapter_dim`, `moe_scaling` or `moe_dtype` where config.json has the dense model's
  `model_type`, as the authors' classes write it; absent keys have the values of those classes. Experts may be named `expert_N` or `N`.
  `moe_dtype` only has to name a type. `rope_theta` is obeyed; the authors' Camelidae rotates with 10000 whatever it says, which craft and inspect
  tell. Routers choose in float32 (the authors': in the weights' type). The authors' balance loss is a constant without gradient; here it is the
  Switch loss. `sutor craft` makes a LLaMA or Yi model a Camelidae, a Mistral a Sparsetral, a Qwen2 a Qwen2idae, with `output_router_logits`
  true unless `--reference-constants` says otherwise; `python check_exports.py folders` runs crafted and trained models in the authors' code.
- A family is one file and one line: [new-family.md](new-family.md).
"""


def main():
    rows = {(r["family"], r["model"]): r for r in map(json.loads, open(sys.argv[1]))}
    exports = json.load(open(os.path.join(HERE, "exports.json")))
    out = HEAD
    for (family, model), r in sorted(rows.items()):
        out += f"| {family}/{model} | {r['logits']:.1e} | {r['loss']:.1e} | " + \
            (f"{r['gradient']:.1e} of {r['gradients']}" if r["gradients"] else "-") + f" | {r['bf16_angle']:.1e} |\n"
    out += MIDDLE
    for family in sorted({f for f, _ in rows}):
        e = exports.get(family, {})
        router, aux = ROUTERS.get(family, ("dense", "-"))
        n = [f"{e[k]:.1e}" if k in e else "-" for k in ("esft merged", "full", "lora merged", "adapter in peft")]
        out += f"| {family} | {router} | {aux} | " + " | ".join(n) + " |\n"
    with open(os.path.join(HERE, "..", "..", "docs", "families.md"), "w") as f:
        f.write(out + TAIL)


if __name__ == "__main__":
    main()
