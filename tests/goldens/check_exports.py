#!/usr/bin/env python3
"""What Sutor exports runs equal in the libraries of others: folders in transformers, adapters in peft. A development-time check.

    python check_exports.py folders [family ...]      # requirements.txt: transformers 5
    python check_exports.py adapters [family ...]     # requirements-v4.txt: transformers 4.57, peft 0.18, one module per expert
    PESC_DIR=... python check_exports.py folders camelidae         # requirements-pesc.txt: the authors' code, as its own environment runs it
    SPARSETRAL_DIR=... python check_exports.py folders sparsetral  # requirements-authors.txt

On a golden model of each family, in float32: full fine-tuning -> folder; scores -> selection -> ESFT -> merged folder; LoRA ->
adapter beside the base, and merged folder. Each time the largest difference of a logit, relative to the largest logit, between
`sutor trace` and the library must be at most 1e-5. Results go into exports.json, from which docs/families.md is made.

A PESC family is opened by its authors' files beside the weights (trust_remote_code); for these also: a dense model -> craft -> full
fine-tuning.

Adapters are checked under transformers 4: 5 fuses experts, and peft's conversion then drops LoRA on shared experts and dense MLPs.
"""
import argparse
import json
import os
import shutil
import subprocess
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
SUTOR = os.path.abspath(os.environ.get("SUTOR", os.path.join(HERE, "..", "..", "build", "sutor")))
RESULTS = os.path.join(HERE, "exports.json")
TOKENIZER = os.path.join(HERE, "esft_train", "model")
AUTHORS = {"camelidae": ("PESC_DIR", "llama"), "sparsetral": ("SPARSETRAL_DIR", "mistral"), "qwen2idae": (None, "qwen2")}
PESC_KEYS = ("adapter_dim", "adapter_dropout", "architectures", "auto_map", "moe_dtype", "moe_scaling", "num_experts", "output_router_logits",
             "router_aux_loss_coef", "topk")


def sutor(*args):
    r = subprocess.run([SUTOR, *map(str, args)], capture_output=True, text=True)
    if r.returncode != 0:
        raise SystemExit(f"sutor {' '.join(map(str, args))}: {r.stderr}")


def goldens():
    for family in sorted(os.listdir(HERE)):
        folder = os.path.join(HERE, family)
        if not os.path.isdir(folder):
            continue
        for model in sorted(os.listdir(folder)):
            config = os.path.join(folder, model, "config.json")
            if os.path.exists(os.path.join(folder, model, "model.safetensors")) and os.path.exists(config):
                with open(config) as f:
                    c = json.load(f)
                if c["model_type"] == family and "quantization_config" not in c:
                    yield family, os.path.join(folder, model), c


def in_v4_keys(folder, c):
    """The same config in the keys that transformers 4 reads."""
    rope = c.pop("rope_parameters", None)
    if rope:
        c["rope_theta"] = rope.pop("rope_theta", 10000.0)
        c["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    if "num_experts" not in c and c["model_type"] in ("qwen3_moe", "qwen2_moe", "olmoe"):
        c["num_experts"] = c.pop("num_local_experts")
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(c, f)


def authors_files(family, folder):
    """Puts the authors' code beside a model of a PESC family."""
    code = os.path.join(os.environ[AUTHORS[family][0]], family)
    for name in os.listdir(code):
        if name.endswith(".py"):
            shutil.copy(os.path.join(code, name), folder)


def library_model(folder):
    if any(name.startswith("modeling_") for name in os.listdir(folder)):
        modules = transformers.dynamic_module_utils  # it asks for flash_attn even where that is optional
        modules.check_imports = modules.get_relative_imports
        return transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, trust_remote_code=True).eval()
    kw = dict(experts_implementation="eager") if int(transformers.__version__.split(".")[0]) >= 5 else {}
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **kw).eval()


def difference(tmp, ids, model, *adapter):
    """Between `sutor trace` of the base (first of `adapter`) or folder and the library's model."""
    sutor("trace", *adapter, "--dtype", "f32", "--input", f"{tmp}/in.safetensors", "--out", f"{tmp}/out.safetensors")
    ours = load_file(f"{tmp}/out.safetensors")["logits"]
    with torch.no_grad():
        theirs = model(input_ids=ids, use_cache=False).logits
    return float((ours - theirs).abs().max() / theirs.abs().max())


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=["folders", "adapters"])
    ap.add_argument("families", nargs="*")
    a = ap.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    results = json.load(open(RESULTS)) if os.path.exists(RESULTS) else {}
    done = set()
    for family, golden, c in goldens():
        if family in done or (a.families and family not in a.families):
            continue
        pesc = family in AUTHORS
        if pesc and (a.what == "adapters" or os.environ.get(AUTHORS[family][0] or "") is None):
            continue
        tmp = tempfile.mkdtemp()
        base = f"{tmp}/base"
        shutil.copytree(golden, base)
        for f in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(os.path.join(TOKENIZER, f), base)
        g = torch.Generator().manual_seed(5)
        ids = torch.randint(0, c["vocab_size"], (2, 17), generator=g)
        save_file({"input_ids": ids}, f"{tmp}/in.safetensors")
        if pesc:
            authors_files(family, base)
        if a.what == "adapters":
            in_v4_keys(base, c)
        if difference(tmp, ids, library_model(base), base) > 1e-5:
            print(f"{golden}: this transformers computes the base otherwise; next")  # 4.57: DeepSeek-V2's mscale
            continue
        done.add(family)
        with open(f"{tmp}/rows.jsonl", "w") as f:
            for row in torch.randint(0, c["vocab_size"], (8, 24), generator=g).tolist():
                f.write(json.dumps({"input_ids": row, "labels": row}) + "\n")
        train = ["train", base, "--data", f"{tmp}/rows.jsonl", "--dtype", "f32", "--seq", 24, "--steps", 3, "--lr", 1e-2, "--quiet"]
        r = results.setdefault(family, {})
        if a.what == "folders":
            sutor(*train, "--method", "full", "--out", f"{tmp}/full")
            r["full"] = difference(tmp, ids, library_model(f"{tmp}/full/model"), f"{tmp}/full/model")
            sutor(*train, "--method", "lora", "--out", f"{tmp}/lora")
            sutor("merge", base, "--adapter", f"{tmp}/lora/adapter", "--out", f"{tmp}/lora-merged")
            r["lora merged"] = difference(tmp, ids, library_model(f"{tmp}/lora-merged"), f"{tmp}/lora-merged")
            if pesc:
                dense = {k: v for k, v in c.items() if k not in PESC_KEYS}
                with open(f"{tmp}/dense.json", "w") as f:
                    json.dump(dict(dense, model_type=AUTHORS[family][1]), f)
                sutor("init", f"{tmp}/dense.json", "--out", f"{tmp}/dense")
                for f in ("tokenizer.json", "tokenizer_config.json"):
                    shutil.copy(os.path.join(TOKENIZER, f), f"{tmp}/dense")
                sutor("craft", f"{tmp}/dense", "--experts", 5, "--adapter-dim", 12, "--quiet", "--out", f"{tmp}/crafted")
                authors_files(family, f"{tmp}/crafted")
                r["crafted"] = difference(tmp, ids, library_model(f"{tmp}/crafted"), f"{tmp}/crafted")
                train[1] = f"{tmp}/crafted"
                sutor(*train, "--method", "full", "--out", f"{tmp}/crafted-full")
                r["crafted, full"] = difference(tmp, ids, library_model(f"{tmp}/crafted-full/model"), f"{tmp}/crafted-full/model")
                train[1] = base
            if any(k in c for k in ("n_routed_experts", "num_experts", "num_local_experts")):
                sutor("score", base, "--data", f"{tmp}/rows.jsonl", "--out", f"{tmp}/scores.json", "--quiet")
                sutor("select", f"{tmp}/scores.json", "--top-p", 0.4, "--out", f"{tmp}/expert_cfg.json")
                sutor(*train, "--method", "esft", "--experts", f"{tmp}/expert_cfg.json", "--out", f"{tmp}/esft")
                sutor("merge", base, "--adapter", f"{tmp}/esft/adapter", "--out", f"{tmp}/merged")
                r["esft merged"] = difference(tmp, ids, library_model(f"{tmp}/merged"), base, "--adapter", f"{tmp}/esft/adapter")
        else:
            import peft
            sutor(*train, "--method", "lora", "--rank", 3, "--out", f"{tmp}/lora")
            plain = library_model(base)
            with torch.no_grad():
                before = plain(input_ids=ids, use_cache=False).logits
            model = peft.PeftModel.from_pretrained(plain, f"{tmp}/lora/adapter").eval()
            r["adapter in peft"] = difference(tmp, ids, model, base, "--adapter", f"{tmp}/lora/adapter")
            with torch.no_grad():
                assert (model(input_ids=ids, use_cache=False).logits - before).abs().max() > 1e-3 * before.abs().max()
        with open(RESULTS, "w") as f:
            json.dump(results, f, indent=1)
            f.write("\n")
        print(family, {k: f"{v:.1e}" for k, v in r.items()}, flush=True)
        bad = [k for k, v in r.items() if not v <= 1e-5]
        assert not bad, f"{family}: {bad}"
        shutil.rmtree(tmp)


if __name__ == "__main__":
    main()
