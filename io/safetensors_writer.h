#pragma once
// Writes safetensors as the reference does: tensors by dtype (widest rank first) then name, header padded to 8 bytes, format "pt".

#include <string>
#include <utility>
#include <vector>

#include "engine/tensor.h"

namespace sutor {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

// One file, written aside and renamed. Holds nothing but the views it is given.
void save_safetensors(const std::string& path, const NamedTensors& tensors);

// model.safetensors, or, above shard_bytes, model-0000i-of-0000n.safetensors and model.safetensors.index.json, into a folder.
void write_checkpoint(const std::string& dir, const NamedTensors& tensors, int64_t shard_bytes);

}  // namespace sutor
