"""Files of torch.save for tests/torch_file.cpp: every dtype and layout that a state dict may have, in torch's present format, in
protocol 4, sharded, and in the format before 1.6; and what they hold, as safetensors.

    python tests/goldens/make_torch_files.py tests/goldens/torch_file
"""
import collections
import json
import os
import sys

import torch
from safetensors.torch import save_file

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
torch.manual_seed(1)
x = torch.randn(6, 5)
tensors = {
    "f32": x,
    "bf16": x.bfloat16(),
    "f16": x.half(),
    "f64": x.double(),
    "i64": torch.arange(-3, 4),
    "i32": torch.arange(5, dtype=torch.int32),
    "i16": torch.arange(5, dtype=torch.int16),
    "i8": torch.arange(-2, 3, dtype=torch.int8),
    "u8": torch.arange(5, dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 7),
    "transposed": x.t(),
    "window": x[1:4, 2:4],
    "row": x[2],
    "cube": torch.randn(2, 3, 4).permute(2, 0, 1),
    "parameter": torch.nn.Parameter(torch.randn(3)),
    "one_column": torch.randn(4, 2)[:, 1:],
}
tensors["tied"] = tensors["f32"]
torch.save(tensors, f"{out}/all.bin")
torch.save(collections.OrderedDict(tensors), f"{out}/protocol4.pt", pickle_protocol=4)
torch.save({"f32": x}, f"{out}/legacy.bin", _use_new_zipfile_serialization=False)
save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, f"{out}/all.safetensors")

module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
state = module.state_dict()  # an OrderedDict with _metadata
names = sorted(state)
os.makedirs(f"{out}/sharded", exist_ok=True)
shards = {"pytorch_model-00001-of-00002.bin": names[:2], "pytorch_model-00002-of-00002.bin": names[2:]}
for file, part in shards.items():
    torch.save(collections.OrderedDict((n, state[n]) for n in part), f"{out}/sharded/{file}")
torch.save(state, f"{out}/module.bin")
with open(f"{out}/sharded/pytorch_model.bin.index.json", "w") as f:
    json.dump({"metadata": {"total_size": 84}, "weight_map": {n: file for file, part in shards.items() for n in part}}, f, indent=1)
save_file(dict(state), f"{out}/module.safetensors")


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


torch.save({"f32": x, "evil": Evil()}, f"{out}/evil.bin")
torch.save({"model": {"f32": x}, "epoch": 3}, f"{out}/nested.pt")
