"""GGUF goldens with the PyPI package `gguf`: blocks of every quantised type with what its quants.py makes of them, and the
vocabularies of tests/goldens/tokenizer as GGUF metadata.

    python tests/goldens/make_gguf.py tests/goldens/gguf
"""
import json
import os
import sys

import gguf
import numpy as np
from gguf.quants import dequantize
from safetensors.numpy import save_file

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
rng = np.random.default_rng(1)
Type = gguf.GGMLQuantizationType
HALVES = {Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2],
          Type.Q6_K: [208]}  # where in a block the float16 scales are

writer = gguf.GGUFWriter(f"{out}/blocks.gguf", "llama")
want = {}
for kind, halves in HALVES.items():
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    rows, blocks = 3, 512 // elements
    raw = rng.integers(0, 256, (rows, blocks, size), dtype=np.uint8)  # every bit pattern is a block, but for the scales
    for at in halves:
        raw[:, :, at:at + 2] = (rng.standard_normal((rows, blocks, 1)) * 0.1).astype(np.float16).view(np.uint8)
    raw[0, 0, halves[0]:halves[0] + 2] = np.array([1], np.uint16).view(np.uint8)  # the smallest subnormal
    raw = raw.reshape(rows, blocks * size)
    writer.add_tensor(kind.name, raw, raw_dtype=kind)
    want[kind.name] = dequantize(raw, kind)
for name, dtype in {"F32": np.float32, "F16": np.float16}.items():
    want[name] = rng.standard_normal((3, 5)).astype(dtype)
    writer.add_tensor(name, want[name])
bits = rng.integers(0, 1 << 15, (3, 5)).astype(np.uint16)
writer.add_tensor("BF16", bits.view(np.uint8), raw_dtype=Type.BF16)
want["BF16"] = (bits.astype(np.uint32) << 16).view(np.float32)
writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
save_file(want, f"{out}/blocks.safetensors")


def vocabulary(name, fill):
    w = gguf.GGUFWriter(f"{out}/vocab_{name}.gguf", "llama")
    fill(w)
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


def gpt2(pre, folder):
    def fill(w):
        t = json.load(open(f"tests/goldens/tokenizer/{folder}/tokenizer.json"))
        ids = {v: k for k, v in t["model"]["vocab"].items()}
        added = {a["id"]: a for a in t["added_tokens"]}
        n = max([*ids, *added]) + 1
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre(pre)
        w.add_token_list([added[i]["content"] if i in added else ids.get(i, f"[PAD{i}]") for i in range(n)])
        kinds = gguf.TokenType
        w.add_token_types([(kinds.CONTROL if added[i]["special"] else kinds.USER_DEFINED) if i in added
                           else kinds.NORMAL if i in ids else kinds.UNUSED for i in range(n)])
        w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in t["model"]["merges"]])
        w.add_add_bos_token(False)
    return fill


def llama(w):
    from sentencepiece import SentencePieceProcessor
    sp = SentencePieceProcessor(model_file="tests/goldens/tokenizer/spm/tokenizer.model")
    kinds, n = gguf.TokenType, sp.get_piece_size()
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list([sp.id_to_piece(i) for i in range(n)])
    w.add_token_scores([sp.get_score(i) for i in range(n)])
    w.add_token_types([kinds.UNKNOWN if sp.is_unknown(i) else kinds.CONTROL if sp.is_control(i) else kinds.BYTE if sp.is_byte(i)
                       else kinds.NORMAL for i in range(n)])
    w.add_bos_token_id(sp.bos_id()), w.add_eos_token_id(sp.eos_id()), w.add_unk_token_id(sp.unk_id())


vocabulary("qwen", gpt2("qwen2", "qwen"))
vocabulary("llama", llama)
