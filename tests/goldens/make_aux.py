#!/usr/bin/env python3
"""Balance losses of routers as transformers computes them: tiny models of every family that has the Switch-type loss.

    python make_aux.py      # requirements.txt

aux/<family>/ is a hub folder and golden.safetensors: input_ids, labels, attention_mask (padding left and right), loss (without the
balance loss), aux_loss (times its coefficient), loss_with_aux, and grad_aux.<parameter> of loss_with_aux for routers and a few others.
"""
import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
import transformers

import hub
from make_models import split_experts

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "aux")
BASE = dict(vocab_size=37, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=1, head_dim=8,
            max_position_embeddings=64, output_router_logits=True, router_aux_loss_coef=0.3, num_experts_per_tok=2,
            initializer_range=0.3, bos_token_id=35, eos_token_id=36, pad_token_id=None, tie_word_embeddings=False)
MODELS = {
    "mixtral": ("Mixtral", dict(BASE, intermediate_size=12, num_local_experts=5)),
    "qwen2_moe": ("Qwen2Moe", dict(BASE, intermediate_size=28, moe_intermediate_size=12, shared_expert_intermediate_size=20,
                                   num_experts=6, mlp_only_layers=[1])),
    "qwen3_moe": ("Qwen3Moe", dict(BASE, intermediate_size=28, moe_intermediate_size=12, num_experts=6, norm_topk_prob=True)),
    "olmoe": ("Olmoe", dict(BASE, intermediate_size=12, num_experts=7, num_experts_per_tok=3)),
}


def checkpoint_names(name, family):
    if family == "mixtral":
        for a, b in ((".mlp.", ".block_sparse_moe."), (".gate_proj.", ".w1."), (".up_proj.", ".w3."), (".down_proj.", ".w2.")):
            name = name.replace(a, b)
    return name


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    shutil.rmtree(HERE, ignore_errors=True)
    for family, (cls, keys) in MODELS.items():
        folder = os.path.join(HERE, family)
        torch.manual_seed(11)
        config = getattr(transformers, cls + "Config")(**keys)
        config._attn_implementation = "eager"
        config._experts_implementation = "eager"
        model = getattr(transformers, cls + "ForCausalLM")(config).eval()
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.copy_((p + (0.05 if p.dim() == 1 else 0.0) * torch.randn_like(p)).bfloat16().float())
        model.save_pretrained(folder)
        for f in os.listdir(folder):
            os.chmod(os.path.join(folder, f), 0o644)
        ids = torch.randint(0, 35, (2, 13))
        labels, mask = ids.clone(), torch.ones_like(ids)
        mask[0, :2] = mask[1, 10:] = 0
        labels[0, :5] = labels[1, 10:] = labels[1, :1] = -100
        out = model(input_ids=ids, labels=labels, attention_mask=mask, use_cache=False, output_router_logits=True)
        out.loss.backward()
        aux = out.aux_loss * config.router_aux_loss_coef
        golden = {"input_ids": ids, "labels": labels, "attention_mask": mask, "loss": (out.loss - aux).detach(),
                  "aux_loss": aux.detach(), "loss_with_aux": out.loss.detach()}
        for name, p in model.named_parameters():
            if p.grad is None:
                continue
            for n, g in split_experts(name, p.grad):
                n = checkpoint_names(n, family)
                if n.endswith("gate.weight") or "q_proj" in n or "experts.1." in n:
                    golden["grad_aux." + n] = g.clone()
        hub.write_tensors(os.path.join(folder, "golden.safetensors"), golden, {"made_by": f"transformers {transformers.__version__}"})
        print(f"{family}: loss {float(golden['loss']):.4f}, balance {float(aux):.4f}")


if __name__ == "__main__":
    main()
