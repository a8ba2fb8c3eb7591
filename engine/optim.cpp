#include "engine/optim.h"

#include <cmath>
#include <numbers>

#include "engine/parallel.h"

namespace sutor {

std::vector<double> block_squares(const Tensor& gradient) {
  const int64_t n = gradient.numel(), blocks = (n + kNormBlock - 1) / kNormBlock;
  const float* g = gradient.f32();
  std::vector<double> part(blocks, 0.0);
  parallel_for(blocks, 1, [&](int64_t lo, int64_t hi) {
    for (int64_t b = lo; b < hi; ++b) {
      double lane[8] = {};
      int64_t end = std::min(n, (b + 1) * kNormBlock), i = b * kNormBlock;
      for (; i + 8 <= end; i += 8)
        for (int j = 0; j < 8; ++j) lane[j] += static_cast<double>(g[i + j]) * g[i + j];
      for (; i < end; ++i) lane[0] += static_cast<double>(g[i]) * g[i];
      for (double l : lane) part[b] += l;
    }
  });
  return part;
}

void adamw(Ctx& ctx, const std::vector<Param*>& params, const AdamWOptions& opt, double lr,
           double grad_scale, int64_t t) {
  AdamWStep step{};
  step.lr = lr;
  step.beta1 = opt.beta1;
  step.beta2 = opt.beta2;
  step.eps = opt.eps;
  step.grad_scale = grad_scale;
  step.bias1 = 1 - std::pow(opt.beta1, static_cast<double>(t));
  step.bias2 = 1 - std::pow(opt.beta2, static_cast<double>(t));
  for (Param* p : params) {
    step.weight_decay = p->value.shape.size() > 1 ? opt.weight_decay : 0.0;
    const Tensor value = flat(p->value, p->lo, p->hi);
    if (value.numel() == 0) continue;
    if (p->m.dtype == DType::U8)
      ctx.k->adamw8bit_step(ctx, value, p->master, p->m, p->v, p->m_scale, p->v_scale, p->sum,
                            step);
    else
      ctx.k->adamw_step(ctx, value, p->master, p->m, p->v, p->sum, step);
  }
}

double learning_rate(Schedule schedule, double peak, int64_t s, int64_t n, int64_t warmup) {
  if (s < warmup) return peak * static_cast<double>(s + 1) / static_cast<double>(warmup);
  if (schedule == Schedule::kConstant) return peak;
  double x =
      static_cast<double>(s - warmup) / static_cast<double>(std::max<int64_t>(1, n - warmup));
  if (schedule == Schedule::kLinear) return peak * (1 - x);
  return peak * 0.5 * (1 + std::cos(std::numbers::pi * x));
}

}  // namespace sutor
