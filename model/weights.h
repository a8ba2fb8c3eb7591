#pragma once
// A model's weights under the names of its family, from a hub folder of any format or a .gguf file:
// quantised tensors unpacked, experts one by one.

#include "engine/backend.h"
#include "io/weights.h"

namespace sutor {

std::shared_ptr<const Weights> open_weights(const std::string& path, const std::string& model_type,
                                            Compute compute);

}  // namespace sutor
