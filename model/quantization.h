#pragma once
// config.json's quantization_config: the tensors themselves say how they are packed
// (model/nf4.h, model/fp8.h); what the config asks for beyond what is implemented, or against it,
// is an error here, before a tensor is read. Test: tests/quantization.cpp.

#include "model/config.h"

namespace sutor {

// Known: bitsandbytes' NF4 (quant_type nf4, storage uint8) and FP8 in blocks of 128 x 128 (e4m3).
// Throws one line with key, value and what is allowed.
void check_quantization(const Config& config);

}  // namespace sutor
