#pragma once
// How files lay out experts, seen as one: per expert, under the names of the model's own family,
// whether the file has them so, under Mixtral's names, under the other of a PESC model's two
// (experts.expert_N, Sparsetral: experts.N), or fused into mlp.experts.gate_up_proj
// [E,2I,H] and down_proj [E,H,I] (transformers v5), perhaps transposed ([E,H,2I], [E,I,H]).
// Test: tests/formats.cpp.

#include "io/weights.h"

namespace sutor {

// `base` itself when all names are the family's already. Slices of fused tensors are views;
// transposed ones are copies. Which of the two fused layouts it is follows from the shapes of both
// tensors; where both layouts fit, that is an error.
std::shared_ptr<const Weights> per_expert(std::shared_ptr<const Weights> base,
                                          const std::string& model_type);

}  // namespace sutor
