// AdamW, torch's arithmetic: w -= lr wd w; m, v; w -= lr/bias1 m / (sqrt(v)/sqrt(bias2) + eps). All in f32 on the master.
#include <cmath>

#include "engine/backend.h"
#include "engine/parallel.h"

namespace sutor::cpu {

void adamw_step(Ctx&, Tensor value, Tensor master, Tensor m, Tensor v, Tensor grad, AdamWStep s) {
  float *w = master.f32(), *mp = m.f32(), *vp = v.f32();
  const float* gp = grad.f32();
  bf16* out = value.dtype == DType::BF16 ? value.as<bf16>() : nullptr;
  check(out != nullptr || value.data == master.data, "adamw: a {} value needs to be its own master", name_of(value.dtype));
  float decay = 1.0f - s.lr * s.weight_decay, size = static_cast<float>(s.lr / s.bias1), root = static_cast<float>(std::sqrt(s.bias2));
  parallel_for(master.numel(), 1 << 14, [&](int64_t lo, int64_t hi) {
    for (int64_t i = lo; i < hi; ++i) {
      float g = gp[i] * s.grad_scale;
      mp[i] = s.beta1 * mp[i] + (1.0f - s.beta1) * g;
      vp[i] = s.beta2 * vp[i] + (1.0f - s.beta2) * g * g;
      w[i] = w[i] * decay - size * mp[i] / (std::sqrt(vp[i]) / root + s.eps);
    }
    if (out)
      for (int64_t i = lo; i < hi; ++i) out[i] = bf16(w[i]);
  });
}

}  // namespace sutor::cpu
