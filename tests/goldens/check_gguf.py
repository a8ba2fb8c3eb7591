"""Sutor beside llama.cpp (PyPI llama-cpp-python, numpy, gguf, safetensors) on a GGUF file of a llama: token ids, logits, greedy answers to
ten prompts, perplexity of a fixed text (LICENSE). llama.cpp rounds activations to 8 bits where weights are quantised, so the same
model is also compared with its weights written out as float32, where both must agree to the last digits.

    python tests/goldens/check_gguf.py build/sutor SmolLM2-135M-Instruct.Q4_1.gguf [files without a vocabulary]
"""
import json
import os
import subprocess
import sys
import tempfile

import gguf
import numpy as np
from gguf.quants import dequantize
from llama_cpp import Llama
from safetensors.numpy import load_file, save_file

sutor, model = sys.argv[1:3]
PROMPTS = ["The capital of France is", "Once upon a time", "def fibonacci(n):", "2 + 2 =", "Water boils at", "The three primary colours are",
           "Dear Sir or Madam,", "In 1969, humans", "A haiku about autumn:\n", "The opposite of hot is"]
NEW, TEXT_TOKENS = 32, 1500


def unquantised(path, out):
    """The same file with every quantised tensor as float32."""
    r = gguf.GGUFReader(path)
    w = gguf.GGUFWriter(out, r.get_field("general.architecture").contents())
    for f in r.fields.values():
        if f.name.startswith("GGUF.") or f.name == "general.architecture":
            continue
        kind = f.types[0]
        w.add_key_value(f.name, f.contents(), kind, f.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for t in r.tensors:
        w.add_tensor(t.name, dequantize(t.data, t.tensor_type).astype(np.float32).reshape(t.shape[::-1]))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


def run(*args, text=None):
    return subprocess.run([sutor, *args], input=text, capture_output=True, check=True, text=True).stdout


def logits_of(path, ids, dir):
    save_file({"input_ids": np.array([ids], np.int64)}, f"{dir}/in.safetensors")
    run("trace", path, "--input", f"{dir}/in.safetensors", "--out", f"{dir}/out.safetensors", "--dtype", "f32", "--quiet")
    return load_file(f"{dir}/out.safetensors")["logits"][0]


def perplexity(logits, ids):
    x = logits[:-1].astype(np.float64)
    top = x.max(-1)
    lse = np.log(np.exp(x - top[:, None]).sum(-1)) + top
    return float(np.exp(np.mean(lse - x[np.arange(len(ids) - 1), ids[1:]])))


def compare(path, dir):
    peer = Llama(path, logits_all=True, verbose=False, n_threads=2, n_ctx=2048, type_k=0, type_v=0)  # a float32 cache
    prompts = [peer.tokenize(p.encode(), add_bos=True, special=True) for p in PROMPTS]
    same_ids = sum(json.loads(run("tokenize", path, text=p.replace("\n", " ") + "\n")) ==
                   peer.tokenize(p.replace("\n", " ").encode(), add_bos=True, special=True) for p in PROMPTS)
    answers, distance, top1 = [], [], []
    for text, ids in zip(PROMPTS, prompts):
        peer.reset()
        peer.eval(ids)
        theirs = np.array(peer.scores[:len(ids)])
        ours = logits_of(path, ids, dir)
        distance.append(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
        top1.append(np.mean(ours.argmax(-1) == theirs.argmax(-1)))
        want = []
        for _ in range(NEW):
            want.append(int(peer.scores[peer.n_tokens - 1].argmax()))
            peer.eval(want[-1:])
        got = json.loads(run("generate", path, "--prompt", text, "--max-tokens", str(NEW), "--ignore-eos", "--json", "--dtype", "f32",
                             "--quiet"))["ids"]
        answers.append(next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), NEW))
    ids = peer.tokenize(open("LICENSE", "rb").read(), add_bos=True, special=True)[:TEXT_TOKENS]
    peer.reset()
    peer.eval(ids)
    ours, theirs = perplexity(logits_of(path, ids, dir), ids), perplexity(np.array(peer.scores[:len(ids)]), ids)
    print(f"{os.path.basename(path)}: ids of {same_ids}/{len(PROMPTS)} prompts equal; logits differ by {max(distance):.2g} of their norm at "
          f"most, top-1 equal at {100 * np.mean(top1):.1f} %; greedy answers equal for {answers} of {NEW} tokens; perplexity of "
          f"{len(ids)} tokens {ours:.4f}, llama.cpp {theirs:.4f} ({100 * (ours / theirs - 1):+.3f} %)", flush=True)


def compare_logits(path, dir):
    """A file without a vocabulary (make_gguf_models.py)."""
    unquantised(path, f"{dir}/plain.gguf")  # llama.cpp rounds activations to bfloat16 where weights are
    try:
        peer = Llama(f"{dir}/plain.gguf", logits_all=True, verbose=False, n_threads=2, n_ctx=64, type_k=0, type_v=0)
    except ValueError:  # dense layers between MoE layers, say
        print(f"{os.path.basename(path)}: llama.cpp has no such model", flush=True)
        return
    ids = [int(i) for i in np.random.default_rng(1).integers(0, 131, 24)]
    peer.eval(ids)
    theirs, ours = np.array(peer.scores[:len(ids)]), logits_of(path, ids, dir)
    print(f"{os.path.basename(path)}: logits differ by {np.linalg.norm(ours - theirs) / np.linalg.norm(theirs):.2g} of their norm", flush=True)


with tempfile.TemporaryDirectory() as dir:
    for other in sys.argv[3:]:
        compare_logits(other, dir)
    compare(model, dir)
    unquantised(model, f"{dir}/unquantised.gguf")
    compare(f"{dir}/unquantised.gguf", dir)
