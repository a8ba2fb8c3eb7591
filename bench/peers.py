#!/usr/bin/env python3
"""One measurement of one engine on one DeepSeek-V2 folder, as one line of JSON; and the race's inputs and its table.

    peers.py prepare WORK --text intent.jsonl            # WORK/{mid/, rows.jsonl, samples.jsonl, prompts.jsonl, expert_cfg.json}
    peers.py score|train|generate WORK --impl hf|authors|sutor [--steps N] [--threads 2]
    peers.py table RESULTS.jsonl

hf: transformers 5.23 as fast as we found it: training with `split` experts (its eager loop, registered here as an experts
function: the trained experts are parameters of their own, the frozen ones slices without gradient; transformers offers none
that can freeze single experts), inference with grouped_mm experts and eager attention, scoring in padded batches.
authors: deepseek-ai/ESFT from $ESFT_DIR, unmodified but for eager attention (flash-attn has no CPU version), under transformers 4.44.2.
sutor: the binary, from outside. All get the same token rows (generate: sutor gets their text), experts and threads.
Environments: tests/goldens/requirements*.txt.
Every process does one unit of warm-up (sutor: none but training's first step). Peak memory is the maximum RSS: of a peer after
loading (load_peak_bytes has that), of sutor over its whole life.
"""
import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")  # halves torch's bf16 training peak, costs no speed

# configs/base.yaml of the authors
SEED, WEIGHT_DECAY, BETAS, EPS, CLIP, CONCAT = 5934875, 0.1, (0.9, 0.95), 1e-8, 1.0, 0.2
LR, SEQ, BATCH, NEW_TOKENS = 1e-5, 512, 4, 64
SCORED, RACED = 32, 128  # samples that choose the experts; that the race scores
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# 1.06 B parameters, 2.1 GB in bf16.
MID = dict(vocab_size=8192, hidden_size=1024, num_hidden_layers=8, n_routed_experts=64, num_experts_per_tok=6,
           moe_intermediate_size=704, intermediate_size=5472, num_attention_heads=16, kv_lora_rank=256,
           qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64)


# --- data: the authors' utils.py, restated ----------------------------------------------------------------------

def format_sample(messages, encode, bos, eos):
    """(ids, labels): question and answer tokenised apart, the prompt not trained, bos once."""
    ids, labels = [bos], [bos]
    for m in messages:
        text = str(m["content"]).strip()
        if m["role"] == "user":
            t = encode(f"User: {text}\n\nAssistant:")
            labels += [-100] * len(t)
        else:
            t = encode(" " + text) + [eos]
            labels += [-100] * len(t) if m.get("mask", 0) == 1 else t
        ids += t
    return ids, labels


def pack(samples, seq, pad, dice):
    """Rows of `seq` tokens as get_examples_from_buffer_pad makes them; `dice` is Python's random."""
    rows, ids, labels = [], [], []
    for i, l in samples:
        room = seq - len(ids)
        i, l = i[-room:], l[-room:]
        if ids and dice.random() < CONCAT:
            i, l = i[1:], l[1:]
        ids, labels = ids + i, labels + l
        if len(ids) == seq:
            rows.append((ids, labels))
            ids, labels = [], []
    rows.append((ids + [pad] * (seq - len(ids)), labels + [-100] * (seq - len(labels))))
    return [r for r in rows if any(x != -100 for x in r[1][1:])]  # an all-pad row would make the loss NaN


def read_jsonl(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def write_jsonl(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


# --- models ----------------------------------------------------------------------------------------------------

def load(folder, impl, dtype, experts="eager", attention="eager"):
    import torch
    import transformers
    transformers.logging.set_verbosity_error()
    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[dtype]
    if impl == "authors":
        sys.path.insert(0, os.environ["ESFT_DIR"])
        from deepseek.modeling_deepseek import DeepseekV2ForCausalLM
        return DeepseekV2ForCausalLM.from_pretrained(folder, torch_dtype=dtype, attn_implementation="eager").eval()
    transformers.utils.logging.disable_progress_bar()
    return transformers.DeepseekV2ForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, experts_implementation=experts).eval()


def moe_layers(model):
    return [(i, l.mlp) for i, l in enumerate(model.model.layers) if hasattr(l.mlp, "gate")]


def split_experts(self, x, expert, weight):
    """transformers' eager experts loop over `self.trained` parameters and frozen slices."""
    import torch
    from torch.nn.functional import linear, one_hot
    y = torch.zeros_like(x)
    with torch.no_grad():
        mask = one_hot(expert, num_classes=self.num_experts).permute(2, 1, 0)
        hit = mask.sum(dim=(-1, -2)).nonzero().flatten().tolist()
    for e in hit:
        k, token = torch.where(mask[e])
        w13, w2 = self.trained.get(e) or (self.gate_up_proj[e], self.down_proj[e])
        gate, up = linear(x[token], w13).chunk(2, dim=-1)
        y.index_add_(0, token, (linear(self.act_fn(gate) * up, w2) * weight[token, k, None]).to(y.dtype))
    return y


def train_only(model, impl, experts):
    """Freeze all but the chosen experts ({"1": [ids]}); returns {name: parameter}."""
    from torch.nn import Parameter
    if impl == "authors":
        from esft import to_esft
        to_esft(model, {"experts": experts, "shared_experts": False, "non_expert_modules": False})
        return {n: p for n, p in model.named_parameters() if p.requires_grad}
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    ALL_EXPERTS_FUNCTIONS.register("esft_split", split_experts)
    model.requires_grad_(False)
    params = {}
    for i, mlp in moe_layers(model):
        w13, w2 = mlp.experts.gate_up_proj, mlp.experts.down_proj
        mlp.experts.trained = {e: (Parameter(w13[e].detach().clone()), Parameter(w2[e].detach().clone()))
                               for e in experts[str(i)]}
        mlp.experts.config._experts_implementation = "esft_split"
        for e, (a, b) in mlp.experts.trained.items():
            params[f"model.layers.{i}.mlp.experts.{e}.gate_up_proj"] = a
            params[f"model.layers.{i}.mlp.experts.{e}.down_proj"] = b
    return params


def train(model, params, ids, labels, lr):
    """transformers.Trainer 4.44.2 with base.yaml, step by step; ids, labels [steps, accum, B, T].
    The mean loss per micro-batch over accum, clipping to 1.0, AdamW, constant lr. Yields (loss, gradient norm, seconds)."""
    import torch
    params = list(params.values())
    opt = torch.optim.AdamW(params, lr=lr, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, fused=True)
    model.train()
    for step_ids, step_labels in zip(ids, labels):
        start, total = time.perf_counter(), 0.0
        for i, l in zip(step_ids, step_labels):
            loss = model(input_ids=i, labels=l, use_cache=False).loss / len(step_ids)
            loss.backward()
            total += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(params, CLIP)
        opt.step()
        opt.zero_grad()
        yield total, float(norm), time.perf_counter() - start


# --- expert scores -----------------------------------------------------------------------------------------------

class Scores:
    """Sums per layer and expert: choices and their weights (the hub's log_expert_weights, as a hook)."""

    def __init__(self, model):
        import torch
        self.tokens, self.keep, self.k = 0, None, model.config.num_experts_per_tok
        self.count = {i: torch.zeros(2, model.config.n_routed_experts, dtype=torch.double) for i, _ in moe_layers(model)}
        for i, mlp in moe_layers(model):
            mlp.gate.register_forward_hook(lambda module, args, out, i=i: self.add(i, out))

    def add(self, layer, out):
        expert, weight = (out[0], out[1]) if not out[0].dtype.is_floating_point else (out[2], out[1])  # authors, hf
        if self.keep is not None:
            expert, weight = expert[self.keep], weight[self.keep]
        both, flat = self.count[layer], expert.reshape(-1)
        both[0] += flat.bincount(minlength=both.shape[1])
        both[1].index_add_(0, flat, weight.detach().reshape(-1).double())

    def run(self, model, samples, batch):
        """`samples`: lists of ids; pads (right, masked) are not counted."""
        import torch
        for at in range(0, len(samples), batch):
            part = samples[at:at + batch]
            longest = max(map(len, part))
            ids = torch.tensor([s + [0] * (longest - len(s)) for s in part])
            mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in part])
            self.keep = mask.flatten().bool()
            self.tokens += int(mask.sum())
            with torch.no_grad():
                model(input_ids=ids, attention_mask=mask, use_cache=False)

    def scores(self):
        """{"token_scores": {layer: [x]}, "gate_scores": ...}: count / (K T) and sum of weights / T."""
        return {name: {str(i): (c[j] / (self.tokens * (self.k if j == 0 else 1))).tolist() for i, c in self.count.items()}
                for j, name in enumerate(("token_scores", "gate_scores"))}


def select(scores, p):
    """Per layer: by score, descending and stable; append while the sum before is < p."""
    chosen = {}
    for layer, s in scores.items():
        chosen[layer], total = [], 0.0
        for e in sorted(range(len(s)), key=lambda e: -s[e]):
            if total >= p:
                break
            chosen[layer].append(e)
            total += s[e]
    return chosen


# --- the three measurements, by torch ------------------------------------------------------------------------------

def measure_score(a, model, work):
    samples = [r["input_ids"] for r in read_jsonl(os.path.join(work, "samples.jsonl"))]
    batch = 8 if a.impl == "hf" else 1
    s = Scores(model)
    s.run(model, samples[:batch], batch)
    tokens, start = s.tokens, time.perf_counter()
    s.run(model, samples, batch)
    return {"tokens_per_s": (s.tokens - tokens) / (time.perf_counter() - start)}


def measure_train(a, model, work):
    import torch
    rows = read_jsonl(os.path.join(work, "rows.jsonl"))
    take = lambda key: torch.tensor([rows[i % len(rows)][key] for i in range(a.steps * BATCH)]).view(a.steps, 1, BATCH, -1)
    with open(os.path.join(work, "expert_cfg.json")) as f:
        params = train_only(model, a.impl, json.load(f)["experts"])
    done = list(train(model, params, take("input_ids"), take("labels"), LR))
    timed = done[1:] or done
    return {"tokens_per_s": BATCH * SEQ * len(timed) / sum(s for _, _, s in timed), "losses": [l for l, _, _ in done],
            "trained_parameters": sum(p.numel() for p in params.values())}


def measure_generate(a, model, work):
    import torch
    from transformers import DynamicCache
    prompt = torch.tensor([read_jsonl(os.path.join(work, "rows.jsonl"))[0]["input_ids"]])
    hf = a.impl == "hf"

    def once(new_tokens):
        cache, x, total = DynamicCache(config=model.config) if hf else DynamicCache(), prompt, prompt.shape[1]
        times = [time.perf_counter()]
        for _ in range(new_tokens + 1):
            # The authors' forward asserts on a missing mask while decoding, and always computes all logits.
            more = {"logits_to_keep": 1} if hf else {"attention_mask": torch.ones(1, total, dtype=torch.long)}
            out = model(input_ids=x, past_key_values=cache, use_cache=True, **more)
            x, total = out.logits[:, -1].argmax(-1, keepdim=True), total + 1
            times.append(time.perf_counter())
        return times

    with torch.no_grad():
        once(1)
        t = once(NEW_TOKENS)
    return {"prefill_tokens_per_s": prompt.shape[1] / (t[1] - t[0]), "decode_tokens_per_s": NEW_TOKENS / (t[-1] - t[1])}


def measure_torch(a, work):
    import torch
    torch.set_num_threads(a.threads)
    torch.manual_seed(SEED)
    model = load(os.path.join(work, "mid"), a.impl, a.dtype, "eager" if a.mode == "train" else "grouped_mm",
                 "sdpa" if a.mode == "train" else "eager")
    loading = peak_rss()
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # VmHWM starts again from the present RSS
    r = {"score": measure_score, "train": measure_train, "generate": measure_generate}[a.mode](a, model, work)
    return {**r, "peak_bytes": peak_rss(), "load_peak_bytes": loading}


def peak_rss():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM:"))


# --- sutor, from outside -------------------------------------------------------------------------------------------

def measure_sutor(a, work):
    file = lambda name: os.path.join(work, name)
    with tempfile.TemporaryDirectory(dir=work) as tmp:
        common = ["--dtype", a.dtype, "--threads", str(a.threads), "--device", "cpu"]
        out = os.path.join(tmp, "out")
        cmd = {
            "score": ["--data", file("samples.jsonl"), "--out", out + ".json", "--json"],
            "train": ["--data", file("rows.jsonl"), "--method", "esft", "--experts", file("expert_cfg.json"), "--out", out,
                      "--steps", a.steps, "--batch", BATCH, "--grad-accum", 1, "--seq", SEQ, "--lr", LR, "--schedule", "constant",
                      "--weight-decay", WEIGHT_DECAY, "--beta1", BETAS[0], "--beta2", BETAS[1], "--clip", CLIP,
                      "--packing", "none", "--order", "file"],
            "generate": ["--prompts", file("prompts.jsonl"), "--max-tokens", NEW_TOKENS, "--temperature", 0, "--json"],
        }[a.mode]
        p = subprocess.run([a.sutor, a.mode, file("mid"), *map(str, cmd), *common], stdout=subprocess.PIPE, text=True)
        if p.returncode:
            raise SystemExit(f"{a.sutor} {a.mode}: exit code {p.returncode}")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        if a.mode == "train":
            steps = [s for s in read_jsonl(os.path.join(out, "log.jsonl")) if "tokens_per_s" in s]
            timed = steps[1:] or steps
            r = {"tokens_per_s": len(timed) / sum(1 / s["tokens_per_s"] for s in timed), "losses": [s["loss"] for s in steps]}
            peak = max(peak, *(s["peak_bytes"] for s in steps))
        else:
            j = json.loads(p.stdout.strip().splitlines()[-1] if a.mode == "generate" else p.stdout)
            r = {"tokens_per_s": j["tokens"] / j["seconds"]} if a.mode == "score" else \
                {k: j[k] for k in ("prefill_tokens_per_s", "decode_tokens_per_s")}
    r["peak_bytes"] = peak
    return r


def measure(a):
    start = cpu_seconds()
    r = (measure_sutor if a.impl == "sutor" else measure_torch)(a, a.work)
    total, own = cpu_seconds()[0] - start[0], cpu_seconds()[1] - start[1]
    r["foreign"] = round(max(0.0, 1 - own / total), 3)  # share of the machine's busy time that was others'
    print(json.dumps({"mode": a.mode, "impl": a.impl, "dtype": a.dtype, "threads": a.threads, **r}))


def cpu_seconds():
    """(busy seconds of the whole machine, of this process and its children)."""
    with open("/proc/stat") as f:
        v = [int(x) / os.sysconf("SC_CLK_TCK") for x in f.readline().split()[1:8]]
    own = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return v[0] + v[1] + v[2] + v[5] + v[6], sum(u.ru_utime + u.ru_stime for u in own)


# --- prepare, table ----------------------------------------------------------------------------------------------

def prepare(a):
    import torch
    sys.path.insert(0, os.path.join(ROOT, "tests", "goldens"))
    import hub
    from tokenizers import Tokenizer
    torch.set_num_threads(a.threads)
    work, c = os.path.join(a.work, ""), hub.config(**MID)
    data = read_jsonl(a.text[0])
    if not os.path.exists(work + "mid/model.safetensors"):
        hub.write_model(work + "mid", c, gain=0.64, spread=0.2)
        hub.write_tokenizer(work + "mid", c["vocab_size"], (m["content"] for t in a.text for s in read_jsonl(t) for m in s["messages"]))
    tok, bos, eos = Tokenizer.from_file(work + "mid/tokenizer.json"), c["bos_token_id"], c["eos_token_id"]
    samples = [format_sample(s["messages"], lambda x: tok.encode(x, add_special_tokens=False).ids, bos, eos) for s in data[:800]]
    row = lambda s: {"input_ids": s[0], "labels": s[1]}
    rows = pack(samples, SEQ, eos, random.Random(SEED))
    write_jsonl(work + "rows.jsonl", map(row, rows))
    write_jsonl(work + "samples.jsonl", map(row, samples[:RACED]))
    write_jsonl(work + "prompts.jsonl", [{"prompt": tok.decode(rows[0][0], skip_special_tokens=True)}])
    model = load(work + "mid", "hf", "bf16", "grouped_mm")
    s = Scores(model)
    s.run(model, [i for i, _ in samples[:SCORED]], 1)
    hub.write_json(work + "expert_cfg.json", {"experts": select(s.scores()["token_scores"], 0.2), "shared_experts": False,
                                              "non_expert_modules": False})


def table(a):
    rows = read_jsonl(a.results)
    kinds = [("train", "tokens_per_s"), ("score", "tokens_per_s"), ("generate", "prefill_tokens_per_s"), ("generate", "decode_tokens_per_s")]
    print("| work | engine | tokens/s: median | min - max | runs | peak RSS GB | sutor / engine: speed | memory |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for mode, key in kinds:
        runs = {}
        for r in rows:
            if r["mode"] == mode:
                runs.setdefault(f"{r['impl']} {r['dtype']}", []).append(r)
        mid = {i: (statistics.median(r[key] for r in v), statistics.median(r["peak_bytes"] for r in v)) for i, v in runs.items()}
        for i, v in sorted(runs.items(), key=lambda x: -mid[x[0]][0]):
            x, ours = [r[key] for r in v], next((m for k, m in mid.items() if k.startswith("sutor")), None)
            ratio = [f"{ours[j] / mid[i][j]:.2f}" for j in (0, 1)] if ours else ["", ""]
            what = mode if mode != "generate" else key.split("_")[0]
            print(f"| {what} | {i} | {mid[i][0]:.1f} | {min(x):.1f} - {max(x):.1f} | {len(x)} | {mid[i][1] / 1e9:.2f} | {ratio[0]} | {ratio[1]} |")
    busy = [r for r in rows if r["foreign"] > 0.05]
    if busy:
        print(f"\n{len(busy)} of {len(rows)} runs shared the machine (up to {max(r['foreign'] for r in busy):.0%} of the busy time): repeat them on a quiet one.")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(dest="mode", required=True)
    p = sub.add_parser("prepare")
    p.add_argument("work")
    p.add_argument("--text", action="append", required=True, help="jsonl with messages; the first is the task, all train the tokenizer")
    p.add_argument("--threads", type=int, default=2)
    for mode in ("score", "train", "generate"):
        p = sub.add_parser(mode)
        p.add_argument("work")
        p.add_argument("--impl", choices=["hf", "authors", "sutor"], required=True)
        p.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
        p.add_argument("--threads", type=int, default=2)
        p.add_argument("--steps", type=int, default=4, help="train; the first is not timed")
        p.add_argument("--sutor", default=os.path.join(ROOT, "build", "sutor"))
    p = sub.add_parser("table")
    p.add_argument("results")
    a = ap.parse_args()
    {"prepare": prepare, "table": table}.get(a.mode, measure)(a)


if __name__ == "__main__":
    main()
