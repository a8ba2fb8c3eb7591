#pragma once
// bitsandbytes' 4-bit weights in safetensors: M.weight (codes), M.weight.absmax, .quant_map,
// .nested_absmax, .nested_quant_map and .quant_state.bitsandbytes__nf4 (a JSON text) seen as the
// one tensor they stand for, which stays packed (DType::NF4); and the other way. Test:
// tests/nf4.cpp.

#include "io/json.h"
#include "io/safetensors_writer.h"
#include "io/weights.h"
#include "model/model.h"

namespace sutor {

// `base` itself when it holds no such tensors.
std::shared_ptr<const Weights> nf4_weights(std::shared_ptr<const Weights> base);

// Packs every frozen linear of the model in memory, double quantised, and lets go of the pages that
// it was read from; routers, head, embeddings, adapters and what trains stay as they are. Returns
// how many it packed; model.base counts their weights and bytes.
int quantise_frozen(Model& model);

// What bitsandbytes stores for the weight `name`, double quantised.
NamedTensors packed_nf4(const std::string& name, const Tensor& weight);

// config.json's quantization_config; `skipped` are modules that stay as they are.
Json nf4_config(const std::vector<std::string>& skipped);

}  // namespace sutor
