#!/usr/bin/env python3
"""The PESC authors' training, step by step, on a tiny crafted model, what it saves, and their merge of it.

    PESC_DIR=... python make_pesc_train.py            # requirements-pesc.txt
    python make_pesc_train.py --check                 # requirements.txt: a restatement on transformers 5 and torch's AdamW

pesc_train/ holds model/ (a crafted hub folder: adapter_up is not zero), lora.safetensors (start values of LoRA's A and B under the
names PEFT saves, B not zero either), rows.jsonl (ids and labels; row i is part of step i // 4, micro-batch i // 2),
settings.json, nf4.safetensors (model/'s frozen linears as bitsandbytes stores them: NF4, double quantised) and for each run,
f32 and nf4 (the frozen base in NF4, computing in float32), golden_<run>.safetensors, all float32:
  losses, grad_norms [steps]    mean over the micro-batches of their mean over trained tokens; norm before clipping
  grad.<parameter>              of step 1, before clipping
  final.<parameter>             after the last step
Parameters: adapters and router as in model/, LoRA as in lora.safetensors. Everything is their train_moe.py run through its own
train(): LoRA on seven projections, constant learning rate without warm-up (theirs starts with a step of rate 0), dropouts 0,
recomputation, bitsandbytes' 32-bit AdamW, clip 0.3 (times 0.3 / (norm + 1e-6)). Their initial values are replaced: with
adapter_up = 0 the routers' first gradients are rounding, and AdamW makes whole steps of it.

authors/ is what the run f32 saved (checkpoint-5/{adapter_model/,moe_model.bin}, completed) and merged/ what their
merge_moe_lora.py makes of it in bf16, with golden.safetensors: input_ids, logits of the merged weights in float32.
"""
import argparse
import json
import math
import os
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(os.path.dirname(HERE)), "bench")]

import pesc_peer  # sets the environment that torch reads
import torch
import transformers
from safetensors.torch import load_file

import hub
from make_pesc import PescMLP, tensor

OUT = os.path.join(HERE, "pesc_train")
STEPS, ACCUM, BATCH, LR, CLIP, BETAS, EPS, VOCAB = 5, 2, 2, 1e-3, 0.3, (0.9, 0.999), 1e-8, 131
RANK, ALPHA, SCALING = 4, 6, 0.5
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CONFIG = dict(model_type="camelidae", architectures=["modeling_camelidae.LlamaForCausalLM"], vocab_size=VOCAB, hidden_size=48,
              intermediate_size=76, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=512,
              rms_norm_eps=1e-5, tie_word_embeddings=False, hidden_act="silu", bos_token_id=1, eos_token_id=2, pad_token_id=None,
              initializer_range=0.02, num_experts=5, topk=2, adapter_dim=12, moe_scaling=SCALING, moe_dtype="bfloat16",
              output_router_logits=False, pretraining_tp=1, torch_dtype="float32")
PESC = dict(num_experts=5, topk=2, adapter_dim=12, moe_scaling=SCALING, lora_r=RANK, lora_alpha=ALPHA)
MADE_BY = "wuhy68/Parameter-Efficient-MoE, "
file = lambda *names: os.path.join(OUT, *names)


class TooClose(Exception):
    pass


def read_rows():
    return pesc_peer.read_jsonl(file("rows.jsonl"))


def nearest_codes(w):
    """bitsandbytes' CPU code takes some 8-bit codes near the middle of two to the farther one: no golden hangs on that."""
    import bitsandbytes.functional as F
    state = F.quantize_4bit(w.float(), quant_type="nf4", compress_statistics=True)[1]
    absmax = torch.nn.functional.pad(w.float().flatten(), (0, -w.numel() % 64)).view(-1, 64).abs().amax(1)
    scaled = (absmax - state.offset).double() / state.state2.absmax.double().repeat_interleave(256)[:len(absmax)]
    table = state.state2.code.double()
    bounds = (table[1:] + table[:-1]) / 2
    near = (scaled[:, None] - bounds).abs().amin(1) < 1e-6 * scaled.abs()
    return not near.any() and torch.equal(torch.bucketize(scaled, bounds), state.absmax.long())


def make_inputs(seed):
    """model/, lora.safetensors, rows.jsonl."""
    os.makedirs(file("model"), exist_ok=True)
    hub.write_json(file("model", "config.json"), dict(sorted(CONFIG.items())))
    pesc_peer.shim()
    from camelidae.configuration_camelidae import CamelidaeConfig
    from camelidae.modeling_camelidae import LlamaForCausalLM
    model = LlamaForCausalLM(CamelidaeConfig.from_pretrained(file("model")))
    # The seed is in the name: of a generator's seed torch takes the low 32 bits, which hub.tensor fills with the name alone.
    salted = lambda n: f"{seed}.{n}" if "proj" in n or "adapter" in n else n
    weights = {}
    for n, t in model.state_dict().items():
        salt = salted(n)
        while n not in weights or n.endswith("proj.weight") and not nearest_codes(weights[n]):
            weights[n] = tensor(salt, tuple(t.shape), seed)
            salt = "+" + salt
    hub.write_tensors(file("model", "model.safetensors"), weights, {"format": "pt"})
    lora = {}
    for n, p in model.named_parameters():
        if n.split(".")[-2] in TARGETS:
            key = "base_model.model." + n[:-len("weight")]
            lora[key + "lora_A.weight"] = tensor(salted(key + "A"), (RANK, p.shape[1]), seed).float()
            lora[key + "lora_B.weight"] = 0.2 * tensor(salted(key + "B"), (p.shape[0], RANK), seed).float()
    hub.write_tensors(file("lora.safetensors"), lora, {"format": "pt"})
    dice = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(STEPS * ACCUM * BATCH):
        n = int(torch.randint(9, 24, (), generator=dice))
        ids = torch.randint(3, VOCAB, (n,), generator=dice).tolist()
        prompt = int(torch.randint(2, n - 3, (), generator=dice))
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    pesc_peer.write_jsonl(file("rows.jsonl"), rows)


def authors_run(run, rows):
    """Their training; the tensors of golden_<run>, and what was saved under the temporary folder's `saved`."""
    start = {**load_file(file("model", "model.safetensors")), **load_file(file("lora.safetensors"))}
    out = {}

    def own(name):  # their module names -> ours
        name = name.replace(".default", "")
        return name if ".lora_" in name else name.replace("base_model.model.", "", 1)

    def hook(trainer):
        model = trainer.model
        trained = {own(n): p for n, p in model.named_parameters() if p.requires_grad}
        for n, p in trained.items():
            p.data.copy_(start[n])
        for m in model.modules():
            if isinstance(m, torch.nn.Dropout):
                m.p = 0.0
        if run == "nf4":
            out["packed"] = packed(model)
        trainer.train_dataset = [{k: torch.tensor(v) for k, v in r.items()} for r in rows]
        losses, norms, gaps = [], [], []
        for n, m in model.named_modules():
            if n.endswith("moe_adapter.router"):
                m.register_forward_hook(lambda m, a, y: gaps.append(gap(y)))
        step = trainer.training_step

        def training_step(*args):
            loss = step(*args)
            losses.append(float(loss))
            return loss

        clip = trainer.accelerator.clip_grad_norm_

        def clip_grad_norm_(*args, **keys):
            if not norms:
                out.update({"grad." + n: p.grad.clone() for n, p in trained.items()})
            norms.append(float(clip(*args, **keys)))
        trainer.training_step, trainer.accelerator.clip_grad_norm_ = training_step, clip_grad_norm_
        trainer.train()
        if min(gaps) < 1e-4:
            raise TooClose(f"{run}: two experts, {min(gaps):.1e}")
        assert len(losses) == STEPS * ACCUM and len(norms) == STEPS
        out["losses"] = torch.tensor(losses).view(STEPS, ACCUM).sum(1)
        out["grad_norms"] = torch.tensor(norms)
        out.update({"final." + n: p.detach().clone() for n, p in trained.items()})

    with open("rows.json", "w") as f:
        f.write("[]")
    pesc_peer.run_training("base", "rows.json", "saved", "nf4-f32" if run == "nf4" else "f32", hook, PESC, max_steps=STEPS,
                           per_device_train_batch_size=BATCH, gradient_accumulation_steps=ACCUM, learning_rate=LR, warmup_steps=0)
    return out


def gap(logits):
    v = logits.detach().softmax(-1).sort(-1, descending=True).values
    k = PESC["topk"]
    return float((v[..., k - 1] - v[..., k]).min())


def packed(model):
    out = {}
    for n, p in model.named_parameters():
        if hasattr(p, "quant_state"):
            n = n.replace("base_model.model.", "", 1)
            out[n] = p.data
            out.update({f"{n}.{k}": v for k, v in p.quant_state.as_dict(packed=True).items()})
    return out


def tokenizer_stub():
    """Rows are ids: their scripts only ask the tokenizer for its padding and to save itself."""
    import types
    stub = types.SimpleNamespace(pad_token="<unk>", pad_token_id=0, save_pretrained=lambda *_: None)
    transformers.AutoTokenizer.from_pretrained = lambda *a, **k: stub


def merge():
    """merge_moe_lora.py on base/ and saved/checkpoint-5, into merged/."""
    os.makedirs("merged")
    with open(os.path.join(os.environ["PESC_DIR"], "merge_moe_lora.py")) as f:
        lines = f.readlines()
    keys = {k: PESC[k] for k in ("num_experts", "topk", "adapter_dim", "moe_scaling")}
    saved = f"saved/checkpoint-{STEPS}"
    m = pesc_peer.script("merge_moe_lora.py", pesc_peer.constants(lines, keys) + [
        ('model_path = "./"', 'model_path = "base"'), ('peft_path="./adapter_model/"', f'peft_path="{saved}/adapter_model"'),
        ('moe_path="./moe_model.bin"', f'moe_path="{saved}/moe_model.bin"'), ('save_path = "./"', 'save_path = "merged"'),
        # The module moved in transformers 4.33 to transformers.integrations; unused when nothing is quantised.
        ("    import transformers.utils.bitsandbytes\n", ""),
        ("    transformers.utils.bitsandbytes.get_keys_to_not_convert = get_keys_to_not_convert\n", "")])
    m.merge_lora_to_base_model()


def make(first_seed):
    from safetensors.torch import save_file
    tokenizer_stub()
    for seed in range(first_seed, 1000):
        make_inputs(seed)
        rows = read_rows()
        cwd = os.getcwd()
        with tempfile.TemporaryDirectory() as tmp:
            os.chdir(tmp)  # relative paths: they end up in what is saved
            try:
                os.makedirs("base")
                weights = load_file(file("model", "model.safetensors"))
                save_file({n: t.float() for n, t in weights.items() if "moe_adapter" not in n}, "base/model.safetensors", {"format": "pt"})
                dense = {k: v for k, v in CONFIG.items() if k not in PESC and not k.startswith(("moe_", "output_"))}
                hub.write_json("base/config.json", {**dense, "model_type": "llama", "architectures": ["LlamaForCausalLM"]})
                goldens = {run: authors_run(run, rows) for run in ("nf4", "f32")}
                merge()
            except TooClose as e:
                print(f"  seed {seed}: {e}")
                os.chdir(cwd)
                continue
            for part in ("authors", "merged"):
                shutil.rmtree(file(part), ignore_errors=True)
            shutil.copytree("saved", file("authors"), ignore=lambda d, names: [n for n in names if n not in (
                f"checkpoint-{STEPS}", "completed", "moe_model.bin", "adapter_model", "adapter_model.bin", "adapter_config.json")
                or d == "saved" and n.startswith("adapter_")])
            shutil.copytree("merged", file("merged"))
            os.chdir(cwd)
        break
    made_by = MADE_BY + f"transformers {transformers.__version__}, peft 0.4.0, bitsandbytes 0.50.2, torch {torch.__version__.split('+')[0]}"
    hub.write_tensors(file("nf4.safetensors"), goldens["nf4"].pop("packed"), {"made_by": made_by})
    for run, g in goldens.items():
        hub.write_tensors(file(f"golden_{run}.safetensors"), g, {"made_by": made_by})
        print(run, f"seed {seed}", "losses", *(f"{x:.5f}" for x in g["losses"]), "norms", *(f"{x:.4f}" for x in g["grad_norms"]))
        dead = [n for n in g if n.startswith("grad.") and float(g[n].norm()) == 0]
        print("  without gradient:", dead)
    hub.write_json(file("settings.json"), {
        "steps": STEPS, "grad_accum": ACCUM, "batch": BATCH, "lr": LR, "schedule": "constant", "warmup": 0, "beta1": BETAS[0],
        "beta2": BETAS[1], "eps": EPS, "weight_decay": 0.0, "clip": CLIP, "lora_rank": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0,
        "adapter_dropout": 0.0, "targets": list(TARGETS), "dtype": "f32"})
    merged_golden(made_by)


def merged_golden(made_by):
    from camelidae.configuration_camelidae import CamelidaeConfig
    from camelidae.modeling_camelidae import LlamaForCausalLM
    model = LlamaForCausalLM(CamelidaeConfig.from_pretrained(file("merged")))
    model.load_state_dict(torch.load(file("merged", "pytorch_model.bin")))
    ids = torch.tensor([r["input_ids"][:9] for r in read_rows()[:4]])
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, use_cache=False).logits
    hub.write_tensors(file("merged", "golden.safetensors"), {"input_ids": ids, "logits": logits}, {"made_by": made_by})


# --- the restatement -------------------------------------------------------------------------------------------------

class LoraLinear(torch.nn.Module):
    def __init__(self, linear, a, b):
        super().__init__()
        self.base, self.lora_A, self.lora_B = linear, torch.nn.Parameter(a), torch.nn.Parameter(b)

    def forward(self, x):
        return self.base(x) + ALPHA / RANK * (x @ self.lora_A.T @ self.lora_B.T)


def unpacked(dtype):
    """nf4.safetensors, dequantised by formulas: absmax = map[q] * nested_absmax + offset, value = code * absmax."""
    packed, out = load_file(file("nf4.safetensors")), {}
    for n in [n for n in packed if n.endswith(".weight")]:
        state = json.loads(bytes(packed[n + ".quant_state.bitsandbytes__nf4"].tolist()))
        q = packed[n].view(-1)
        codes = packed[n + ".quant_map"][torch.stack([q >> 4, q & 15], 1).view(-1).long()]
        absmax = packed[n + ".nested_quant_map"][packed[n + ".absmax"].long()]
        absmax = absmax * packed[n + ".nested_absmax"].repeat_interleave(256)[:len(absmax)] + state["nested_offset"]
        count = math.prod(state["shape"])
        out[n] = (codes * absmax.repeat_interleave(64)[:len(codes)])[:count].view(state["shape"]).to(dtype)
    return out


def restated_run(run, dtype):
    keys = {k: v for k, v in CONFIG.items() if k not in ("model_type", "architectures", "moe_dtype", "output_router_logits",
                                                         "pretraining_tp", "torch_dtype")}
    config = transformers.AutoConfig.for_model("llama", **keys, rope_theta=10000.0)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config)
    for layer in model.model.layers:
        layer.mlp = PescMLP(layer.mlp, config, "expert_{}")
    model.load_state_dict({**load_file(file("model", "model.safetensors")), **(unpacked(torch.float32) if run == "nf4" else {})})
    model = model.to(dtype).requires_grad_(False)
    params = {n: p for n, p in model.named_parameters() if "moe_adapter" in n}
    lora = load_file(file("lora.safetensors"))
    for key in [k for k in lora if ".lora_A." in k]:
        parent, leaf = key[len("base_model.model."):-len(".lora_A.weight")].rsplit(".", 1)
        parent = model.get_submodule(parent)
        b = key.replace("lora_A", "lora_B")
        layer = LoraLinear(getattr(parent, leaf), lora[key].to(dtype), lora[b].to(dtype))
        setattr(parent, leaf, layer)
        params[key], params[b] = layer.lora_A, layer.lora_B
    for p in params.values():
        p.requires_grad_(True)
    opt = torch.optim.AdamW(params.values(), lr=LR, betas=BETAS, eps=EPS, weight_decay=0.0)
    rows, out = read_rows(), {"losses": [], "grad_norms": []}
    for step in range(STEPS):
        total = 0.0
        for micro in range(ACCUM):
            part = rows[(step * ACCUM + micro) * BATCH:][:BATCH]
            longest = max(len(r["input_ids"]) for r in part)
            pad = lambda r, key, x: r[key] + [x] * (longest - len(r[key]))
            logits = model(input_ids=torch.tensor([pad(r, "input_ids", 0) for r in part]), use_cache=False).logits
            labels = torch.tensor([pad(r, "labels", -100) for r in part])
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), labels[:, 1:].reshape(-1)) / ACCUM
            loss.backward()
            total += float(loss.detach())
        if step == 0:
            out.update({"grad." + n: p.grad.clone() for n, p in params.items()})
        norm = torch.nn.utils.clip_grad_norm_(params.values(), CLIP)
        opt.step(), opt.zero_grad(set_to_none=False)
        out["losses"].append(total), out["grad_norms"].append(float(norm))
    out.update({"final." + n: p.detach().clone() for n, p in params.items()})
    return {k: torch.tensor(v) if isinstance(v, list) else v for k, v in out.items()}


def check():
    """Largest errors relative to the largest value, per kind; of the weights' change, relative l2."""
    start = {**load_file(file("model", "model.safetensors")), **load_file(file("lora.safetensors"))}
    for run in ("f32", "nf4"):
        want = load_file(file(f"golden_{run}.safetensors"))
        for dtype in (torch.float64, torch.float32):
            got, worst, change = restated_run(run, dtype), {}, [0.0, 0.0]
            assert got.keys() == want.keys(), set(got) ^ set(want)
            for key, w in want.items():
                d, w = got[key].double() - w.double(), w.double()
                kind = key.split(".")[0]
                if kind == "final":
                    change[0] += float(d.square().sum())
                    change[1] += float((w - start[key[len("final."):]].double()).square().sum())
                worst[kind] = max(worst.get(kind, 0), float(d.abs().max() / w.abs().max()))
            print(run, str(dtype)[6:], *(f"{k} {v:.1e}" for k, v in worst.items()), f"change of the weights {(change[0] / change[1]) ** 0.5:.1e}")


def check_saved():
    """authors/ holds the last step's values; merged/ is bf16(W + alpha / r B A), adapters rounded."""
    start, final = load_file(file("model", "model.safetensors")), load_file(file("golden_f32.safetensors"))
    at = lambda *names: torch.load(file(*names))
    moe = at("authors", f"checkpoint-{STEPS}", "moe_model.bin")
    lora = at("authors", f"checkpoint-{STEPS}", "adapter_model", "adapter_model.bin")
    merged, plus = at("merged", "pytorch_model.bin"), lambda n: n.replace("base_model.model.", "", 1)
    same = all(torch.equal(v, final["final." + plus(n)]) for n, v in moe.items()) and \
        all(torch.equal(v, final["final." + n]) for n, v in lora.items())
    want = {n: v.to(torch.bfloat16) for n, v in {**start, **{plus(n): v for n, v in moe.items()}}.items()}
    for a in [n for n in lora if ".lora_A." in n]:
        n = plus(a).replace("lora_A.", "")
        want[n] = (start[n].float() + ALPHA / RANK * (lora[a.replace("lora_A", "lora_B")] @ lora[a])).to(torch.bfloat16)
    differ = [n for n, v in merged.items() if not torch.equal(v, want[n])]
    print(f"saved as trained: {same}; merged: {len(merged) - len(differ)} of {len(want)} tensors bitwise", *differ)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--check", action="store_true")
    ap.add_argument("--seed", type=int, default=1, help="the first to try")
    a = ap.parse_args()
    torch.set_num_threads(1)
    (check(), check_saved()) if a.check else make(a.seed)


if __name__ == "__main__":
    main()
