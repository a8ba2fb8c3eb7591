#pragma once
// A GGUF file seen as the hub folder it was made from: config.json, tensors under Hugging Face's
// names, in its row order, unpacked. The families then check all of it. Architectures: llama (also
// Mistral, Mixtral), qwen2, qwen2moe, qwen3, qwen3moe, olmoe, deepseek2 (also V3).

#include "engine/backend.h"
#include "io/gguf.h"

namespace sutor {

bool is_gguf(const std::string& path);

// The file, or for the first file NAME-00001-of-00003.gguf of a split model, all of them.
std::vector<std::shared_ptr<const GgufFile>> open_gguf_parts(const std::string& path);

// The metadata's integer of a key; a list with a value per layer must agree with itself.
int64_t gguf_number(const GgufFile& file, const std::string& key);

// What config.json would say.
Json gguf_config(const std::string& path);

// Quantised tensors become F32, the very numbers ggml computes, when computing in f32, else BF16.
std::shared_ptr<const Weights> open_gguf(const std::string& path, Compute compute);

}  // namespace sutor
