#pragma once
// LoRA (arXiv 2106.09685) on the linears of a model; names and files as PEFT's
// (adapter_config.json, adapter_model.safetensors).

#include "model/model.h"

namespace sutor {

struct LoraOptions {
  int64_t rank = 8;
  double alpha = 16;                 // scale = alpha / rank
  std::vector<std::string> targets;  // globs over parameter names without ".weight"; empty: every
                                     // linear but embeddings and head
};

// Adds A (normal with the variance of Kaiming-uniform a = sqrt 5, seeded by name) and B (zeros) as
// parameters `<module>.lora_A.weight`, `<module>.lora_B.weight`, marks them trainable; everything
// else stays as it was. Returns how many linears got one; a target that matches nothing is an
// error.
int add_lora(Model& model, const LoraOptions& opt, uint64_t seed);

// W += scale B A in f32, rounded once to W's type; the LoRA is removed.
void merge_lora(Model& model);

}  // namespace sutor
