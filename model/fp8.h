#pragma once
// FP8 E4M3 weights with a scale per block of 128 x 128, as DeepSeek-V3 is published: w[i,j] =
// code[i,j] * weight_scale_inv[i/128, j/128], rounded once to bf16 (inference/fp8_cast_bf16.py of
// deepseek-ai/DeepSeek-V3). Test: tests/deepseek_v3.cpp.

#include <string>

#include "io/weights.h"

namespace sutor {

constexpr int64_t kFp8Block = 128;

// codes (bytes) U8 [N,K], scale_inv F32 [ceil(N/128), ceil(K/128)] -> BF16 [N,K].
Tensor dequantised_fp8(const Tensor& codes, const Tensor& scale_inv, const std::string& where,
                       const std::string& name);

// F8_E4M3 tensors of `base` as BF16, their scales hidden; `base` itself when it has none.
std::shared_ptr<const Weights> unpacked_fp8(std::shared_ptr<const Weights> base);

}  // namespace sutor
