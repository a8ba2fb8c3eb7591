"""What `sutor quantize` writes, opened by transformers with bitsandbytes on the CPU: every 4-bit weight unpacks to the very values Sutor
uses, and the logits agree.

    python tests/goldens/check_nf4.py build/sutor tests/goldens/llama/tied
"""
import subprocess
import sys
import tempfile

import bitsandbytes.functional as F
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

sutor, model = sys.argv[1:]
with tempfile.TemporaryDirectory() as dir:
    subprocess.run([sutor, "quantize", model, "--to", "nf4", "--out", f"{dir}/q", "--quiet"], check=True, capture_output=True)
    peer = AutoModelForCausalLM.from_pretrained(f"{dir}/q", dtype=torch.float32, device_map="cpu")
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    count, worst = 0, 0.0
    source = load_file(f"{model}/model.safetensors")
    for name, p in peer.named_parameters():
        if type(p).__name__ == "Params4bit":
            w = F.dequantize_4bit(p.data, p.quant_state).float()
            count += 1
            plain.get_parameter(name).data.copy_(w)  # what bitsandbytes unpacks, in float32 products
            worst = max(worst, ((w - source[name].float()).norm() / source[name].float().norm()).item())
    ids = torch.arange(24).reshape(1, 24) * 5 % peer.config.vocab_size
    save_file({"input_ids": ids}, f"{dir}/in.safetensors")
    subprocess.run([sutor, "trace", f"{dir}/q", "--input", f"{dir}/in.safetensors", "--out", f"{dir}/out.safetensors", "--dtype", "f32", "--quiet"],
                   check=True)
    ours = load_file(f"{dir}/out.safetensors")["logits"]
    with torch.no_grad():
        theirs = plain(ids).logits
    print(f"{count} weights in 4 bits, {worst:.3f} of their norm from the source at most; logits differ by "
          f"{((ours - theirs).abs().max() / theirs.abs().max()).item():.2g} of the largest")
