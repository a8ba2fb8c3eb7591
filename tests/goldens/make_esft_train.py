#!/usr/bin/env python3
"""The ESFT authors' training, step by step, on a small model: what `train --method esft` has to reproduce.

    ESFT_DIR=... python make_esft_train.py            # requirements-authors.txt
    ESFT_DIR=... python make_esft_train.py --check    # requirements.txt: transformers' own DeepseekV2 against the golden

esft_train/ holds a hub folder (model/), data.jsonl (the first intent samples), settings.json, scores.json and expert_cfg.json
(one sample per forward; token score, p = 0.2), rows.jsonl (the packed rows of all steps, in order) and golden.safetensors, float32:
  input_ids, labels [steps*accum, B, T]    the rows packed by their utils.py (seed in settings.json, no shuffling)
  losses.<run>, grad_norms.<run> [steps]   as Trainer logs them: mean of the micro-batches' means; norm before clipping
  change.<run>.<parameter> []              l2 norm of (trained - initial) of every trained matrix
  final.<run>.<parameter>                  the trained matrices
Runs: `aux` with the balance loss of alpha 0.001 (their default), `no_aux` without (alpha 1e-30: theirs crashes on 0).
"""
import argparse
import json
import os
import random
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(os.path.dirname(HERE)), "bench")]

import peers  # sets the environment that torch reads
import torch
import transformers
from safetensors.torch import load_file

import hub

OUT = os.path.join(HERE, "esft_train")
MODEL, GOLDEN = os.path.join(OUT, "model"), os.path.join(OUT, "golden.safetensors")
STEPS, ACCUM, BATCH, SEQ, SAMPLES, SCORED, LR = 20, 2, 2, 64, 110, 32, 1e-3
CONFIG = dict(vocab_size=1024, hidden_size=72, num_hidden_layers=4, n_routed_experts=24, num_experts_per_tok=4,
              moe_intermediate_size=20, intermediate_size=180, num_attention_heads=4, kv_lora_rank=40, qk_nope_head_dim=24,
              qk_rope_head_dim=16, v_head_dim=20)


def run(impl, experts, ids, labels, alpha):
    model = peers.load(MODEL, impl, "f32")
    for _, mlp in peers.moe_layers(model):
        mlp.gate.alpha = alpha
    params = peers.train_only(model, impl, experts)
    before = {n: p.detach().clone() for n, p in params.items()}
    grid = lambda x: x.view(STEPS, ACCUM, BATCH, SEQ)
    done = list(peers.train(model, params, grid(ids), grid(labels), LR))
    return [x[0] for x in done], [x[1] for x in done], before, {n: p.detach() for n, p in params.items()}


def make():
    sys.path.insert(0, os.environ["ESFT_DIR"])
    import utils  # the authors'
    from transformers import AutoTokenizer
    data = peers.read_jsonl(os.path.join(os.environ["ESFT_DIR"], "datasets", "train", "intent.jsonl"))
    c = hub.config(**CONFIG)
    n = hub.write_model(MODEL, c, seed=7, spread=0.2)
    hub.write_tokenizer(MODEL, c["vocab_size"], (m["content"] for s in data[:1000] for m in s["messages"]))
    data = [{"messages": s["messages"]} for s in data[:SAMPLES]]
    peers.write_jsonl(os.path.join(OUT, "data.jsonl"), data)

    tok = AutoTokenizer.from_pretrained(MODEL)
    samples = [tuple(utils.get_formatted_input_and_target(s["messages"], tok, -100)) for s in data]
    random.seed(peers.SEED)
    rows = utils.get_examples_from_buffer_pad(samples, SEQ, tok, peers.CONCAT)
    encode = lambda text: tok.encode(text, add_special_tokens=False)
    ours = [peers.format_sample(s["messages"], encode, c["bos_token_id"], c["eos_token_id"]) for s in data]
    packed = peers.pack(ours, SEQ, c["eos_token_id"], random.Random(peers.SEED))
    need = STEPS * ACCUM * BATCH
    ids, labels = rows["input_ids"][:need], rows["labels"][:need]
    assert len(ids) == need and [(i, l) for i, l in zip(ids.tolist(), labels.tolist())] == packed[:need], len(rows["input_ids"])
    row = lambda i, l: {"input_ids": i, "labels": l}
    peers.write_jsonl(os.path.join(OUT, "rows.jsonl"), map(row, ids.tolist(), labels.tolist()))

    model = peers.load(MODEL, "authors", "f32")
    s = peers.Scores(model)
    s.run(model, [i for i, _ in samples[:SCORED]], 1)
    scores = s.scores()
    experts = peers.select(scores["token_scores"], 0.2)
    hub.write_json(os.path.join(OUT, "scores.json"),
                   {k: {i: {str(e): round(x, 4) for e, x in enumerate(v)} for i, v in t.items()} for k, t in scores.items()})
    hub.write_json(os.path.join(OUT, "expert_cfg.json"), {"experts": experts, "shared_experts": False, "non_expert_modules": False})
    hub.write_json(os.path.join(OUT, "settings.json"), {
        "steps": STEPS, "grad_accum": ACCUM, "batch": BATCH, "seq": SEQ, "lr": LR, "schedule": "constant", "weight_decay": peers.WEIGHT_DECAY,
        "beta1": peers.BETAS[0], "beta2": peers.BETAS[1], "eps": peers.EPS, "clip": peers.CLIP, "aux_loss": {"aux": 0.001, "no_aux": 0.0},
        "packing_seed": peers.SEED, "scored_samples": SCORED, "scored_tokens": s.tokens, "top_p": 0.2, "dtype": "f32"})

    golden = {"input_ids": ids.view(-1, BATCH, SEQ), "labels": labels.view(-1, BATCH, SEQ)}
    for name, alpha in (("aux", 0.001), ("no_aux", 1e-30)):
        losses, norms, before, after = run("authors", experts, ids, labels, alpha)
        golden["losses." + name], golden["grad_norms." + name] = torch.tensor(losses), torch.tensor(norms)
        for p, w in after.items():
            golden[f"final.{name}.{p}"], golden[f"change.{name}.{p}"] = w, (w - before[p]).norm()
        print(name, "loss", *(f"{x:.4f}" for x in losses[::4] + losses[-1:]), "norm", *(f"{x:.2f}" for x in norms[::4]))
    hub.write_tensors(GOLDEN, golden, {"made_by": "the authors' own code (deepseek-ai/ESFT: modeling_deepseek.py, esft.py, utils.py), "
                                       f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"})
    print(f"{n} parameters, trains {sum(map(len, experts.values()))} experts", experts)


def check():
    """The noise between two correct float32 implementations; transformers has no balance loss."""
    g = load_file(GOLDEN)
    with open(os.path.join(OUT, "expert_cfg.json")) as f:
        experts = json.load(f)["experts"]
    losses, norms, before, after = run("hf", experts, g["input_ids"], g["labels"], 0)
    relative = lambda a, b: float(((torch.tensor(a) - b).abs() / b.abs()).max())
    difference = change = 0.0
    for p, w in after.items():
        theirs = g[f"final.no_aux.{p}.weight"] if "down" in p else torch.cat(
            [g[f"final.no_aux.{p.replace('gate_up_proj', part)}.weight"] for part in ("gate_proj", "up_proj")])
        difference += float((w - theirs).double().square().sum())
        change += float((theirs - before[p]).double().square().sum())
    print(f"losses {relative(losses, g['losses.no_aux']):.1e}, gradient norms {relative(norms, g['grad_norms.no_aux']):.1e}, "
          f"change of the trained weights {(difference / change) ** 0.5:.1e} (relative l2)")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--check", action="store_true")
    torch.set_num_threads(1)
    check() if ap.parse_args().check else make()


if __name__ == "__main__":
    main()
