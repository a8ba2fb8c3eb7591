// One AdamW step on the f32 master, torch's arithmetic (engine/cpu/isa/rows.h): w *= 1 - lr wd; m,
// v; w -= lr/bias1 m / (sqrt(v)/sqrt(bias2) + eps). Specification: engine/ref/optim.h; test:
// tests/kernels/optim.cpp.
#include "engine/cpu/adamw.h"

namespace sutor::cpu {

void adamw_step(Ctx&, Tensor value, Tensor master, Tensor m, Tensor v, Tensor grad, AdamWStep s) {
  bf16* out = adamw_rounded(value, master, m, v, grad);
  AdamWConstants c = adamw_constants(s);
  const RowKernels& k = row_kernels();
  float *w = master.f32(), *mp = m.f32(), *vp = v.f32();
  const float* g = grad.f32();
  parallel_for(master.numel(), 1 << 14, [&](int64_t lo, int64_t hi) {
    k.adamw(w + lo, mp + lo, vp + lo, g + lo, c, hi - lo);
    if (out)
      for (int64_t i = lo; i < hi; ++i) out[i] = bf16(w[i]);
  });
}

}  // namespace sutor::cpu
