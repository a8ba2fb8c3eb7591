"""NF4 goldens from PyPI bitsandbytes on the CPU: weights, their double quantised form as bitsandbytes stores it in safetensors, and what it
reads back.

    python tests/goldens/make_nf4.py tests/goldens/nf4
"""
import os
import sys

import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
torch.manual_seed(1)
weights = {
    "a": torch.randn(48, 40),
    "odd": torch.randn(7, 33),
    "long": torch.randn(300, 64) * torch.logspace(-3, 1, 300)[:, None],  # more than 256 blocks
    "zeros": torch.randn(4, 64) * torch.tensor([1.0, 0.0, 2.0, 0.5])[:, None],  # one block of zeros
}
source, packed, unpacked = {}, {}, {}
for name, w in weights.items():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        key = f"{name}.{str(dtype)[6:]}"
        source[key] = (w * 0.02).to(dtype)
        q, state = F.quantize_4bit(source[key], quant_type="nf4", compress_statistics=True)
        packed[f"{key}.weight"] = q
        for k, v in state.as_dict(packed=True).items():
            packed[f"{key}.weight.{k}"] = v
        unpacked[key] = F.dequantize_4bit(q, state)
w = (weights["a"] * 0.02).bfloat16()
q, state = F.quantize_4bit(w, quant_type="nf4", compress_statistics=False)
packed["single.weight"] = q
for k, v in state.as_dict(packed=True).items():
    packed[f"single.weight.{k}"] = v
unpacked["single"] = F.dequantize_4bit(q, state)
save_file(source, f"{out}/source.safetensors"), save_file(packed, f"{out}/packed.safetensors"), save_file(unpacked, f"{out}/unpacked.safetensors")
