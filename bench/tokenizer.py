#!/usr/bin/env python3
"""Encode speed on one core against the `tokenizers` library: python bench/tokenizer.py BUILD intent.jsonl law.jsonl

Run from the repository root after `make`; BUILD has the objects. Best of three passes; ids are counted on both sides.
"""
import glob
import json
import os
import subprocess
import sys
import tempfile
import time

os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")
from tokenizers import Tokenizer  # noqa: E402  (reads the environment above)

build, files = sys.argv[1], sys.argv[2:]
text = [m["content"] for f in files for line in open(f, encoding="utf-8") for m in json.loads(line)["messages"]]
size = sum(len(t.encode()) for t in text) / 1e6
with tempfile.TemporaryDirectory() as d:
    subprocess.check_call(["g++", "-std=c++20", "-O2", "-I.", "bench/tokenizer.cpp", *glob.glob(f"{build}/io/tokenizer*.o"),
                           "-o", f"{d}/bench", "-lfmt", "-lonig", "-lutf8proc", "-lsentencepiece", "-pthread"])
    with open(f"{d}/text", "w") as f:
        f.writelines(json.dumps(t) + "\n" for t in text)
    for name in ("deepseek", "qwen", "llama"):
        folder = f"tests/goldens/tokenizer/{name}"
        ours, count = subprocess.check_output([f"{d}/bench", folder, f"{d}/text"], text=True).split()
        tok = Tokenizer.from_file(f"{folder}/tokenizer.json")
        best, ids = 0, 0
        for _ in range(3):
            start = time.perf_counter()
            ids = sum(len(tok.encode(t, add_special_tokens=False).ids) for t in text)
            best = max(best, size / (time.perf_counter() - start))
        print(f"{name}: sutor {float(ours):.2f} MB/s, tokenizers {best:.2f} MB/s, {float(ours) / best:.2f}x, "
              f"ids {'equal' if ids == int(count) else 'DIFFER'} ({ids})", flush=True)
