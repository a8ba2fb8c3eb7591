#!/usr/bin/env python3
"""Adapters made by the peft library on tests/goldens/deepseek_v2/plain, and what the model computes with them (float32).

    python make_peft.py                    # requirements.txt
    python make_peft.py --old              # the same with peft 0.19.0 on the path: the fused form as it was before 0.19.1

peft/<case>/ is an adapter folder and golden.safetensors: input_ids, logits (adapter beside the weights), merged.<parameter>
of some weights after merge_and_unload, under the names of the checkpoint. Factors are random (a fresh B of zeros would hide
everything), magnitudes too.
"""
import argparse
import json
import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import peft
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import hub
from make_aux import checkpoint_names
from make_models import split_experts


def weights_of(model, folder):
    family = "mixtral" if folder == MIXTRAL else ""
    return {checkpoint_names(n, family): w for name, p in model.named_parameters() for n, w in split_experts(name, p.detach())}



HERE = os.path.dirname(os.path.abspath(__file__))
PLAIN, MIXTRAL = os.path.join(HERE, "deepseek_v2", "plain"), os.path.join(HERE, "aux", "mixtral")
FUSED = dict(r=2, lora_alpha=3, target_modules=[], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
CASES = {
    "patterns": dict(r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "kv_b_proj", "kv_a_proj_with_mqa"],
                     layers_to_transform=[1, 2], rank_pattern={r"layers\.1\.self_attn\.q_proj": 2, "kv_a_proj_with_mqa": 4},
                     alpha_pattern={"kv_b_proj": 7}, exclude_modules=["layers.2.self_attn.kv_b_proj"]),
    "dora": dict(r=2, lora_alpha=4, use_dora=True, modules_to_save=["lm_head", "input_layernorm"],
                 target_modules=r".*\.[02]\.self_attn\.(?!q_)(?P<x>o_proj|kv_\w+_mqa|kv_b_proj)"),
    "all-linear": dict(r=1, lora_alpha=2, target_modules="all-linear"),
    "experts": dict(r=2, lora_alpha=4, target_modules=["gate_proj", "up_proj", "down_proj"]),
    "head": dict(r=2, lora_alpha=2, target_modules=["lm_head", "o_proj"]),
    "fused": dict(FUSED, alpha_pattern={r"experts\.down_proj": 8}, rank_pattern={"mlp.experts.down_proj": 3}),
    "fused-down": dict(r=2, lora_alpha=3, target_modules=["o_proj"], target_parameters=["experts.down_proj"]),
}
ON_MIXTRAL = ("mixtral", "mixtral-bin")  # names of the checkpoint differ from those in memory
CASES["mixtral"] = dict(r=2, lora_alpha=3, target_modules=["q_proj", "w1", "w2", "w3", "gate"])
CASES["mixtral-bin"] = dict(r=2, lora_alpha=3, target_modules=["o_proj"], target_parameters=["experts.gate_up_proj"])
OLD = {"fused-old": FUSED}
KEEP = ("block_sparse_moe.gate", "layers.0.self_attn", "layers.1.self_attn.q_proj", "layers.2.self_attn", "layers.0.mlp", "shared_experts", "experts.0.",
        "layers.2.mlp.experts.5.", "lm_head")


def base(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                 experts_implementation="eager").eval()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--old", action="store_true")
    a = ap.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for case, keys in (OLD if a.old else CASES).items():
        torch.manual_seed(len(case))
        folder = MIXTRAL if case in ON_MIXTRAL else PLAIN
        ids = load_file(os.path.join(folder, "golden.safetensors"))["input_ids"]
        plain = weights_of(base(folder), folder)
        out = os.path.join(HERE, "peft", case)
        shutil.rmtree(out, ignore_errors=True)
        model = peft.get_peft_model(base(folder), peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **keys))
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_" in name and "magnitude" not in name:
                    p.copy_(torch.randn_like(p) * (0.15 if "lora_A" in name else 0.25))
                elif "magnitude" in name or "modules_to_save" in name:
                    p.mul_(1 + 0.2 * torch.randn_like(p))
        binary = case.endswith("-bin")
        model.eval().save_pretrained(out, safe_serialization=not binary)
        os.remove(os.path.join(out, "README.md"))
        os.chmod(os.path.join(out, "adapter_model.bin" if binary else "adapter_model.safetensors"), 0o644)
        config = os.path.join(out, "adapter_config.json")
        with open(config) as f:
            j = json.load(f)
        j = {k: sorted(v) if k.startswith("target_") and isinstance(v, list) else v for k, v in j.items()}
        hub.write_json(config, dict(j, base_model_name_or_path=os.path.basename(folder)))
        with torch.no_grad():
            # 0.19.0 cannot load its own files beside this transformers; the model it made is the same.
            loaded = model if a.old else peft.PeftModel.from_pretrained(base(folder), out).eval()
            logits = loaded(input_ids=ids, use_cache=False).logits
            merged = weights_of(loaded.merge_and_unload(), folder)
        changed = {n for n in merged if not torch.equal(merged[n], plain[n])}
        kept = {"merged." + n: merged[n] for n in sorted(changed) if any(k in n for k in KEEP)}
        hub.write_tensors(os.path.join(out, "golden.safetensors"), {"input_ids": ids, "logits": logits, **kept},
                          {"made_by": f"peft {peft.__version__}, transformers {transformers.__version__}"})
        print(case, len(changed), "weights changed,", len(kept), "kept,",
              sum(os.path.getsize(os.path.join(out, f)) for f in os.listdir(out)), "bytes")


if __name__ == "__main__":
    main()
