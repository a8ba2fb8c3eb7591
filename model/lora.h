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
  double dropout = 0;                // of what A sees, in training
};

// Whether a parameter is a linear that a forward pass runs with a LoRA beside it: a matrix, but no
// embedding, head, router, LoRA factor or adapter of a PESC layer.
bool is_linear(const Param& p);

// Adds A (normal with the variance of Kaiming-uniform a = sqrt 5, seeded by name) and B (zeros) as
// parameters `<module>.lora_A.weight`, `<module>.lora_B.weight`, marks them trainable; everything
// else stays as it was. Returns how many linears got one; a target that matches nothing is an
// error.
int add_lora(Model& model, const LoraOptions& opt, uint64_t seed);

// Merging, W' = W + scale B A, every element in f64, in two steps so that the caller can prove that
// merged and unmerged logits agree before rounding hides it. The LoRAs are removed.
// What an adapter folded in when it was loaded (Model::folded) is among the result.
std::vector<MergedWeight> merge_unrounded(Model& model);  // values become W' in f32
Tensor unrounded(const MergedWeight& m);                  // W' in f32
// Values become W' rounded once, to nearest even, to the type of W.
void round_merged(const std::vector<MergedWeight>& merged);
// Throws unless no number of the type of `stored` is nearer to W' than the stored one, element by
// element.
void check_merged(const MergedWeight& m, const Tensor& stored);

}  // namespace sutor
