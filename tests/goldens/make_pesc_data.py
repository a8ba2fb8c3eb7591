#!/usr/bin/env python3
"""What the PESC authors' SupervisedDataset makes of rows: prompt, tokens, what is trained.

    PESC_DIR=... python make_pesc_data.py        # requirements-pesc.txt

pesc_data/data.json are rows as in their example.json, written here; golden.json says, for each tokenizer_config.json beside
tokenizer/spm/tokenizer.model ("config"; transformers 4.33's slow LlamaTokenizer), what remains of them, cut to `seq` tokens:
{"row": index in data.json, "input_ids": [...], "labels": [...]}. Rows of several turns are gone. What it shows: two bos (their text
has one, the tokenizer puts another), a lost eos where the row was cut, no trained token where the prompt fills it, special
tokens from users' text, and a mask that ends early where the prompt holds <unk> (its id, 0, is the padding).
"""
import json
import os
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(os.path.dirname(HERE)), "bench")]

import pesc_peer  # sets the environment that torch reads

import hub

SEQ = 96


def row(instruction, *turns, corpus=""):
    return {"corpus": corpus, "dataset": "golden", "instruction": instruction,
            "conversation": [{"input": i, "output": o} for i, o in turns]}


LONG = "The cobbler sticks to his last, and the expert to its task. " * 6
ROWS = [
    row("", ("What is 12 times 34?", "12 times 34 is 408.")),
    row("You are a helpful assistant.", ("Name a river.", "The Rhine.")),
    row("", ("Hello", "Hi there!"), ("And again", "Again.")),
    row("", corpus="Plain text is trained whole,\nline by line."),
    row("Answer briefly.", ("  spaces before\tand after  ", " leading space, trailing too \n")),
    row("", ("Größe, naïve, 你好, 🙂", "Ωmega — ünïcode 你好 🙂\n\nsecond paragraph")),
    row("", ("def f(x):\n    return x + 1", "```python\ndef f(x):\n    return x + 2\n```")),
    row("", ("Say it: </s> and <s> again", "Said </s> it.")),
    row("", ("An <unk> here and <unk> there", "Two unknowns.")),
    row("", ("Tell me everything.", LONG)),
    row(LONG, ("Too long a prompt?", "Nothing is trained.")),
    row("", ("", "")),
    row("System prompt alone", corpus="A corpus wins over a conversation."),
    row("### System:", ("### Human:\nnested\n### Assistant:\n", "### Assistant:\nno")),
]


def main():
    out = os.path.join(HERE, "pesc_data")
    os.makedirs(out, exist_ok=True)
    data = os.path.join(out, "data.json")
    hub.write_json(data, ROWS)
    m = pesc_peer.script("train_moe.py", [])
    from transformers import AutoTokenizer
    kept = [i for i, r in enumerate(ROWS) if r["corpus"] or len(r["conversation"]) == 1]
    cases = []
    for legacy in (True, False):
        config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True,
                  "add_eos_token": False, "clean_up_tokenization_spaces": False, "legacy": legacy}
        with tempfile.TemporaryDirectory() as at:
            shutil.copy(os.path.join(HERE, "tokenizer", "spm", "tokenizer.model"), at)
            hub.write_json(os.path.join(at, "tokenizer_config.json"), config)
            tok = AutoTokenizer.from_pretrained(at, model_max_length=SEQ, padding_side="right", use_fast=False, trust_remote_code=True)
        assert tok.pad_token is None
        tok.pad_token_id = 0  # as train() does
        rows = m.SupervisedDataset(data, tok)
        assert len(rows) == len(kept)
        cases.append({"config": config, "rows": [
            {"row": i, **{k: v.tolist() for k, v in rows[j].items()}} for j, i in enumerate(kept)]})
    with open(os.path.join(out, "golden.json"), "w") as f:
        json.dump({"seq": SEQ, "cases": cases}, f, separators=(",", ":"))
    for c in cases:
        print(c["config"]["legacy"], *((r["row"], len(r["input_ids"]), sum(l != -100 for l in r["labels"])) for r in c["rows"]))


main()
