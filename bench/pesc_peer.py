#!/usr/bin/env python3
"""The PESC authors' code (wuhy68/Parameter-Efficient-MoE) beside Sutor: one measurement as one line of JSON, the race's inputs, its table.

    PESC_DIR=... pesc_peer.py prepare WORK example.json      # WORK/{dense/, camel/, data.json, rows.jsonl, prompts.jsonl}
    PESC_DIR=... pesc_peer.py train WORK --impl authors|sutor|sutor-dense|sutor-keep --dtype f32|bf16|nf4-f32|nf4-bf16 [--steps 3]
    PESC_DIR=... pesc_peer.py generate WORK --impl authors|sutor --dtype f32|bf16
    pesc_peer.py table RESULTS.jsonl

authors: their train_moe.py, run through its own train() and Trainer, and their modeling. No file of theirs is touched: constants and what
only CUDA has are replaced in the source text as it is read (each replacement must fit exactly once). sutor: the binary, from outside;
sutor-dense: LoRA on the dense base, what PESC adds to; sutor-keep: without recomputation,
which the script has fixed. dense/ is a seeded LLaMA of 119.6 M parameters; all train the
same 512-token rows in the same order: 8 experts, top-2, adapters of 64, LoRA r 64 alpha 16 on seven projections, dropout 0.1,
recomputation, batch x accumulation per step. camel/ is dense/ with random adapters, for generation.
Environment: tests/goldens/requirements-pesc.txt. Peak memory is the maximum RSS: of the authors after loading (load_peak_bytes has
that), of sutor over its whole life. A process warms up with its first step or a short generation.
"""
import argparse
import functools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import types
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
warnings.filterwarnings("ignore")

SEED, SEQ, NEW_TOKENS, VOCAB = 3, 512, 48, 8192
PESC = dict(num_experts=8, topk=2, adapter_dim=64, moe_scaling=1, lora_r=64, lora_alpha=16)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


# --- the authors' code on a CPU ----------------------------------------------------------------------------------

def shim():
    """What their imports expect of another machine: openai, bitsandbytes without CUDA, torch 2.0's default of checkpoint()."""
    import transformers.utils as tu
    import transformers.utils.import_utils as iu
    import torch.utils.checkpoint as cp
    if "openai" not in sys.modules:
        sys.modules["openai"] = types.ModuleType("openai")
        sys.modules["openai"].openai_object = types.SimpleNamespace(OpenAIObject=object)
        iu.is_bitsandbytes_available = tu.is_bitsandbytes_available = lambda: True
        cp.checkpoint = functools.partial(cp.checkpoint, use_reentrant=True)
        sys.path.insert(0, os.environ["PESC_DIR"])
    import transformers
    transformers.logging.set_verbosity_error()


def script(name, replacements):
    """Their script as a module, `replacements` [(old, new)] made in its text."""
    shim()
    with open(os.path.join(os.environ["PESC_DIR"], name)) as f:
        text = f.read()
    for old, new in replacements:
        if text.count(old) != 1:
            raise SystemExit(f"{name}: {text.count(old)} times {old!r}, expected once")
        text = text.replace(old, new)
    m = types.ModuleType(name[:-3])
    sys.modules[m.__name__] = m
    exec(compile(text, name, "exec"), m.__dict__)
    return m


def constants(text_of, values):
    """Replacements of `model_config.<key> = <value>` in a text."""
    lines = {l.strip().split(" = ")[0]: l.strip() for l in text_of if l.strip().startswith("model_config.")}
    return [(lines[f"model_config.{k}"] + "\n", f"model_config.{k} = {v!r}\n") for k, v in values.items()]


def run_training(model, data, out, dtype, hook, pesc=PESC, **arguments):
    """train_moe.py on the dense or crafted folder `model`; `hook(trainer)` instead of trainer.train(). dtype: f32, bf16 (of what
    trains, and of the frozen weights where they are not NF4), or nf4-f32, nf4-bf16 (NF4, double quantised, computing in that)."""
    import torch
    nf4, bf16 = dtype.startswith("nf4"), dtype.endswith("bf16")
    with open(os.path.join(os.environ["PESC_DIR"], "train_moe.py")) as f:
        lines = f.readlines()
    start = next(i for i, l in enumerate(lines) if "load_in_4bit=True" in l)
    end = next(i for i, l in enumerate(lines) if i > start and l == "        ),\n") + 1
    quantised = "".join(lines[start:end])
    change = constants(lines, pesc) + [("    trainer.train()\n", "    HOOK(trainer)\n")]
    if nf4:
        on_cpu = "" if bf16 else "        torch_dtype=torch.float32,\n"
        change.append((quantised, quantised.replace("torch.bfloat16", f"torch.{'bfloat16' if bf16 else 'float32'}") + on_cpu +
                       '        device_map={"": "cpu"},\n'))
    else:  # theirs is 4-bit only: what prepare_model_for_kbit_training then leaves out, and the frozen weights' dtype
        cast = "    model.enable_input_require_grads()\n" + bf16 * (
            "    for n_, p_ in model.named_parameters():\n        if 'norm' not in n_: p_.data = p_.data.to(torch.bfloat16)\n")
        change += [(quantised, ""), ("    model.config.use_cache = False\n", cast + "    model.config.use_cache = False\n")]
    m = script("train_moe.py", change)

    def hooked(trainer):
        inner = trainer.model.base_model.model
        if hasattr(inner, "hf_device_map"):
            del inner.hf_device_map  # Trainer would ask for a GPU
        trainer._get_train_sampler = lambda: torch.utils.data.SequentialSampler(trainer.train_dataset)
        hook(trainer)

    m.HOOK = hooked
    arguments = {"model_name_or_path": model, "data_path": data, "output_dir": out, "model_max_length": SEQ, "evaluation_strategy": "no",
                 "save_strategy": "no", "logging_strategy": "no", "no_cuda": True, "bf16": bf16, "adam_beta2": 0.999,
                 "max_grad_norm": 0.3, "weight_decay": 0.0, "disable_tqdm": True, **arguments}
    argv, sys.argv = sys.argv, ["train_moe.py"] + [str(x) for k, v in arguments.items() for x in ("--" + k, v)]
    try:
        m.train()
    finally:
        sys.argv = argv


# --- the measurements, the authors' --------------------------------------------------------------------------------

def measure_train(a):
    r, at, losses = {}, [], []

    def hook(trainer):
        from transformers import TrainerCallback

        class Clock(TrainerCallback):
            def on_step_end(self, *_, **__):
                at.append(time.perf_counter())

        step = trainer.training_step

        def training_step(*args):
            loss = step(*args)
            losses.append(float(loss))
            return loss
        trainer.training_step = training_step
        trainer.pop_callback(next(c for c in trainer.callback_handler.callbacks if type(c).__name__ == "SavePeftModelCallback"))
        trainer.add_callback(Clock)
        r["trained_parameters"] = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        r["load_peak_bytes"] = restart_peak()
        at.append(time.perf_counter())
        trainer.train()

    with tempfile.TemporaryDirectory(dir=a.work) as out:
        run_training(os.path.join(a.work, "dense"), os.path.join(a.work, "data.json"), out, a.dtype, hook, max_steps=a.steps,
                     per_device_train_batch_size=a.batch, gradient_accumulation_steps=a.accum, learning_rate=2e-4, warmup_steps=200)
    timed = at[1:] if len(at) > 2 else at
    r["tokens_per_s"] = a.batch * a.accum * SEQ * (len(timed) - 1) / (timed[-1] - timed[0])
    r["losses"] = [sum(losses[i:i + a.accum]) for i in range(0, len(losses), a.accum)]
    return r


def measure_generate(a):
    import torch
    shim()
    from camelidae.configuration_camelidae import CamelidaeConfig
    from camelidae.modeling_camelidae import LlamaForCausalLM
    folder = os.path.join(a.work, "camel")
    model = LlamaForCausalLM.from_pretrained(folder, config=CamelidaeConfig.from_pretrained(folder),
                                             torch_dtype=torch.bfloat16 if a.dtype == "bf16" else torch.float32).eval()
    loading = restart_peak()
    prompt = torch.tensor([read_jsonl(os.path.join(a.work, "rows.jsonl"))[0]["input_ids"]])

    def once(new_tokens):
        cache, x, times = None, prompt, [time.perf_counter()]
        for _ in range(new_tokens + 1):
            out = model(input_ids=x, past_key_values=cache, use_cache=True)
            x, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
            times.append(time.perf_counter())
        return times

    with torch.no_grad():
        once(1)
        t = once(NEW_TOKENS)
    return {"prefill_tokens_per_s": prompt.shape[1] / (t[1] - t[0]), "decode_tokens_per_s": NEW_TOKENS / (t[-1] - t[1]),
            "load_peak_bytes": loading}


def measure_authors(a):
    import torch
    torch.set_num_threads(a.threads)
    r = {"train": measure_train, "generate": measure_generate}[a.mode](a)
    return {**r, "peak_bytes": peak_rss()}


def peak_rss():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM:"))


def restart_peak():
    """The peak RSS so far; it starts again from the present."""
    peak = peak_rss()
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")
    return peak


# --- sutor, from outside -------------------------------------------------------------------------------------------

def measure_sutor(a):
    file = lambda name: os.path.join(a.work, name)
    dense, nf4 = a.impl == "sutor-dense", a.dtype.startswith("nf4")
    recompute = [] if a.impl == "sutor-keep" else ["--recompute"]
    dtype = a.dtype.rpartition("-")[2]
    with tempfile.TemporaryDirectory(dir=a.work) as tmp:
        out = os.path.join(tmp, "out")
        if a.mode == "train":
            model = file("dense" if dense else "crafted")
            cmd = ["--method", "lora" if dense else "pesc", "--quantize", "nf4" if nf4 else "none", "--rank", PESC["lora_r"],
                   "--alpha", PESC["lora_alpha"], "--lora-dropout", 0.1, *([] if dense else ["--adapter-dropout", 0.1]), "--batch", a.batch,
                   "--grad-accum", a.accum, "--seq", SEQ, "--packing", "none", "--order", "file", "--steps", a.steps, "--lr", 2e-4,
                   "--schedule", "constant", "--weight-decay", 0, "--beta1", 0.9, "--beta2", 0.999, "--clip", 0.3, *recompute,
                   "--data", file("rows.jsonl"), "--out", out]
        else:
            model = file("camel")
            cmd = ["--prompts", file("prompts.jsonl"), "--max-tokens", NEW_TOKENS, "--temperature", 0, "--json"]
        p = subprocess.run([a.sutor, a.mode, model, *map(str, cmd), "--dtype", dtype, "--threads", str(a.threads), "--device", "cpu"],
                           stdout=subprocess.PIPE, text=True)
        if p.returncode:
            raise SystemExit(f"{a.sutor} {a.mode}: exit code {p.returncode}")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        if a.mode == "train":
            steps = [s for s in read_jsonl(os.path.join(out, "log.jsonl")) if "tokens_per_s" in s]
            timed = steps[1:] or steps
            r = {"tokens_per_s": len(timed) / sum(1 / s["tokens_per_s"] for s in timed), "losses": [s["loss"] for s in steps]}
            peak = max(peak, *(s["peak_bytes"] for s in steps))
        else:
            j = json.loads(p.stdout.strip().splitlines()[-1])
            r = {k: j[k] for k in ("prefill_tokens_per_s", "decode_tokens_per_s")}
    r["peak_bytes"] = peak
    return r


def measure(a):
    start = cpu_seconds()
    r = (measure_authors if a.impl == "authors" else measure_sutor)(a)
    total, own = cpu_seconds()[0] - start[0], cpu_seconds()[1] - start[1]
    r["foreign"] = round(max(0.0, 1 - own / total), 3)  # share of the machine's busy time that was others'
    print(json.dumps({"mode": a.mode, "impl": a.impl, "dtype": a.dtype, "threads": a.threads, **r}))


def cpu_seconds():
    """(busy seconds of the whole machine, of this process and its children)."""
    with open("/proc/stat") as f:
        v = [int(x) / os.sysconf("SC_CLK_TCK") for x in f.readline().split()[1:8]]
    own = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return v[0] + v[1] + v[2] + v[5] + v[6], sum(u.ru_utime + u.ru_stime for u in own)


# --- prepare, table ------------------------------------------------------------------------------------------------

def read_jsonl(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def write_jsonl(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


def prompt_of(row):
    """The authors' prompt of an instruction row, without the bos."""
    system = f"### System:\n{row['instruction']}\n" if row["instruction"] else ""
    return f"{system}### Human:\n{row['conversation'][0]['input']}\n### Assistant:\n"


def prepare(a):
    import sentencepiece
    import torch
    shim()
    from transformers import LlamaConfig, LlamaTokenizer
    from transformers import LlamaForCausalLM as Dense
    from camelidae.configuration_camelidae import CamelidaeConfig
    from camelidae.modeling_camelidae import LlamaForCausalLM
    torch.manual_seed(SEED)
    dense, camel = os.path.join(a.work, "dense"), os.path.join(a.work, "camel")
    with open(a.data, encoding="utf-8") as f:
        data = json.load(f)
    texts = [prompt_of(r) + r["conversation"][0]["output"] + "\n" for r in data]
    os.makedirs(camel, exist_ok=True)
    os.makedirs(dense, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=os.path.join(dense, "tokenizer"), vocab_size=VOCAB, model_type="bpe",
        byte_fallback=True, character_coverage=0.9999, split_digits=True, normalization_rule_name="identity", minloglevel=2,
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, num_threads=a.threads, max_sentence_length=40000)
    os.remove(os.path.join(dense, "tokenizer.vocab"))
    with open(os.path.join(dense, "tokenizer_config.json"), "w") as f:
        json.dump({"add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
                   "legacy": False, "tokenizer_class": "LlamaTokenizer", "sp_model_kwargs": {}}, f)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(os.path.join(dense, name), camel)
    sizes = dict(vocab_size=VOCAB, hidden_size=1024, intermediate_size=2816, num_hidden_layers=8, num_attention_heads=16,
                 num_key_value_heads=16, max_position_embeddings=2048, rms_norm_eps=1e-5)
    model = Dense(LlamaConfig(**sizes)).to(torch.bfloat16)
    model.save_pretrained(dense, safe_serialization=True)
    keys = {k: PESC[k] for k in ("num_experts", "topk", "adapter_dim", "moe_scaling")}
    sparse = LlamaForCausalLM(CamelidaeConfig(**sizes, **keys, moe_dtype="bfloat16", output_router_logits=False)).to(torch.bfloat16)
    for n, p in sparse.named_parameters():
        if "router" in n or "adapter" in n:
            torch.nn.init.normal_(p, 0, 0.03)
    sparse.load_state_dict(model.state_dict(), strict=False)
    sparse.save_pretrained(camel, safe_serialization=True)
    config = os.path.join(camel, "config.json")
    with open(config) as f:
        c = json.load(f)
    with open(config, "w") as f:  # as published; their class says "llama"
        json.dump({**c, "model_type": "camelidae"}, f, indent=2)

    # Their dataset's rows that fill 512 tokens; Sutor gets the same ids.
    tok = LlamaTokenizer.from_pretrained(dense, model_max_length=SEQ, padding_side="right")
    tok.pad_token_id = 0
    length = lambda text: len(tok(text, truncation=True).input_ids)
    full = [r for r, text in zip(data, texts) if length(prompt_of(r)) < 400 and length(text) == SEQ]
    with open(os.path.join(a.work, "data.json"), "w", encoding="utf-8") as f:
        json.dump(full, f, ensure_ascii=False)
    rows = script("train_moe.py", []).SupervisedDataset(os.path.join(a.work, "data.json"), tok)
    rows = [rows[i] for i in range(len(rows))]
    write_jsonl(os.path.join(a.work, "rows.jsonl"), [{k: v.tolist() for k, v in r.items()} for r in rows])
    write_jsonl(os.path.join(a.work, "prompts.jsonl"), [{"prompt": tok.decode(rows[0]["input_ids"], skip_special_tokens=True)}])
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(rows)} rows of {SEQ} tokens")


def table(a):
    rows = read_jsonl(a.results)
    kinds = {"train, NF4": ("train", True, "tokens_per_s"), "train": ("train", False, "tokens_per_s"),
             "prefill": ("generate", False, "prefill_tokens_per_s"), "decode": ("generate", False, "decode_tokens_per_s")}
    print("| work | engine | tokens/s: median | min - max | runs | peak RSS GB | sutor / engine: speed | memory |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for what, (mode, nf4, key) in kinds.items():
        runs = {}
        for r in rows:
            if r["mode"] == mode and r["dtype"].startswith("nf4") == nf4:
                runs.setdefault(f"{r['impl']} {r['dtype']}", []).append(r)
        mid = {i: (statistics.median(r[key] for r in v), statistics.median(r["peak_bytes"] for r in v)) for i, v in runs.items()}
        ours = max((m for i, m in mid.items() if i.startswith("sutor ")), default=None)
        for i, v in sorted(runs.items(), key=lambda x: -mid[x[0]][0]):
            x = [r[key] for r in v]
            ratio = [f"{ours[j] / mid[i][j]:.2f}" for j in (0, 1)] if ours else ["", ""]
            print(f"| {what} | {i} | {mid[i][0]:.1f} | {min(x):.1f} - {max(x):.1f} | {len(x)} | {mid[i][1] / 1e9:.2f} | {ratio[0]} | {ratio[1]} |")
    busy = [r for r in rows if r["foreign"] > 0.05]
    if busy:
        print(f"\n{len(busy)} of {len(rows)} runs shared the machine (up to {max(r['foreign'] for r in busy):.0%} of the busy time): repeat them on a quiet one.")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(dest="mode", required=True)
    p = sub.add_parser("prepare")
    p.add_argument("work")
    p.add_argument("data", help="the authors' example.json, or rows like it")
    p.add_argument("--threads", type=int, default=2)
    for mode in ("train", "generate"):
        p = sub.add_parser(mode)
        p.add_argument("work")
        p.add_argument("--impl", choices=["authors", "sutor", "sutor-dense", "sutor-keep"][:4 if mode == "train" else 2], required=True)
        p.add_argument("--dtype", choices=["f32", "bf16", "nf4-f32", "nf4-bf16"][:4 if mode == "train" else 2], default="f32")
        p.add_argument("--threads", type=int, default=2)
        p.add_argument("--steps", type=int, default=3, help="the first is not timed")
        p.add_argument("--batch", type=int, default=1)
        p.add_argument("--accum", type=int, default=4)
        p.add_argument("--sutor", default=os.path.join(ROOT, "build", "sutor"))
    p = sub.add_parser("table")
    p.add_argument("results")
    a = ap.parse_args()
    {"prepare": prepare, "table": table}.get(a.mode, measure)(a)


if __name__ == "__main__":
    main()
