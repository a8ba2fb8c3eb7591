// One AdamW step on the f32 master, torch's arithmetic (engine/cpu/isa/rows.h): w *= 1 - lr wd; m,
// v; w -= lr/bias1 m / (sqrt(v)/sqrt(bias2) + eps). Scalars are combined in f64 and rounded once,
// as torch does in Python. Specification: engine/ref/optim.h; test: tests/kernels/optim.cpp.
#include <cmath>

#include "engine/backend.h"
#include "engine/cpu/rows.h"

namespace sutor::cpu {

void adamw_step(Ctx&, Tensor value, Tensor master, Tensor m, Tensor v, Tensor grad, AdamWStep s) {
  int64_t n = master.numel();
  check(m.numel() == n && v.numel() == n && grad.numel() == n && value.numel() == n,
        "adamw: {} with moments or gradient of another size", to_string(master.shape));
  check(master.contiguous() && m.contiguous() && v.contiguous() && grad.contiguous() &&
            value.contiguous(),
        "adamw: {} is strided", to_string(master.shape));
  bf16* out = value.dtype == DType::BF16 ? value.as<bf16>() : nullptr;
  check(out != nullptr || value.data == master.data, "adamw: a {} value needs to be its own master",
        name_of(value.dtype));
  auto once = [](double x) { return static_cast<float>(x); };
  AdamWConstants c{.grad_scale = once(s.grad_scale),
                   .decay = once(1 - s.lr * s.weight_decay),
                   .beta1_rest = once(1 - s.beta1),
                   .beta2 = once(s.beta2),
                   .beta2_rest = once(1 - s.beta2),
                   .step = once(s.lr / s.bias1),
                   .root_bias2 = once(std::sqrt(s.bias2)),
                   .eps = once(s.eps)};
  const RowKernels& k = row_kernels();
  float *w = master.f32(), *mp = m.f32(), *vp = v.f32();
  const float* g = grad.f32();
  parallel_for(n, 1 << 14, [&](int64_t lo, int64_t hi) {
    k.adamw(w + lo, mp + lo, vp + lo, g + lo, c, hi - lo);
    if (out)
      for (int64_t i = lo; i < hi; ++i) out[i] = bf16(w[i]);
  });
}

}  // namespace sutor::cpu
