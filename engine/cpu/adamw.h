#pragma once
// What the AdamW steps share: scalars combined in f64 and rounded once, as torch does in Python;
// where the rounded weights go. Users: engine/cpu/optim.cpp, engine/cpu/adamw8bit.cpp.

#include <cmath>

#include "engine/backend.h"
#include "engine/cpu/rows.h"

namespace sutor::cpu {

inline AdamWConstants adamw_constants(const AdamWStep& s) {
  auto once = [](double x) { return static_cast<float>(x); };
  return {.grad_scale = once(s.grad_scale),
          .decay = once(1 - s.lr * s.weight_decay),
          .beta1_rest = once(1 - s.beta1),
          .beta2 = once(s.beta2),
          .beta2_rest = once(1 - s.beta2),
          .step = once(s.lr / s.bias1),
          .root_bias2 = once(std::sqrt(s.bias2)),
          .eps = once(s.eps)};
}

// bf16 weights to be rounded from the master; null: the weights are the master.
inline bf16* adamw_rounded(const Tensor& value, const Tensor& master, const Tensor& m,
                           const Tensor& v, const Tensor& grad) {
  int64_t n = master.numel();
  check(m.numel() == n && v.numel() == n && grad.numel() == n && value.numel() == n,
        "adamw: {} with moments or gradient of another size", to_string(master.shape));
  check(master.contiguous() && m.contiguous() && v.contiguous() && grad.contiguous() &&
            value.contiguous(),
        "adamw: {} is strided", to_string(master.shape));
  bf16* out = value.dtype == DType::BF16 ? value.as<bf16>() : nullptr;
  check(out != nullptr || value.data == master.data, "adamw: a {} value needs to be its own master",
        name_of(value.dtype));
  return out;
}

}  // namespace sutor::cpu
