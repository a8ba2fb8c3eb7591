#pragma once
// AdamW (arXiv 1711.05101, torch's arithmetic) over the trainable parameters, global-norm clipping,
// learning-rate schedules.

#include <string>

#include "engine/param.h"

namespace sutor {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
};

// The sums of squares of a vector's blocks of kNormBlock elements, in double: what the norm is
// made of, whichever rank has which blocks.
constexpr int64_t kNormBlock = 1 << 16;
std::vector<double> block_squares(const Tensor& g);

// One step (t counts from 1) at `lr` of the elements that this rank updates; gradients are
// multiplied by grad_scale first. Weight decay is decoupled and applies to matrices only. Moments
// in 8 bits where the parameter has them so.
void adamw(Ctx& ctx, const std::vector<Param*>& params, const AdamWOptions& opt, double lr,
           double grad_scale, int64_t t);

enum class Schedule { kConstant, kLinear, kCosine };
// Learning rate of step s (0-based) of n: linear warm-up by (s + 1) / warmup (transformers: s /
// warmup), then the schedule down to zero (constant: none).
double learning_rate(Schedule schedule, double peak, int64_t s, int64_t n, int64_t warmup);

}  // namespace sutor
