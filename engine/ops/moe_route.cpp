// Scores of a router, the chosen experts and their weights; DeepSeek's sequence-wise balance loss.
// Kernel: engine/cpu/moe_route.cpp.
#include <cstring>

#include "engine/ops.h"

namespace sutor {

Routing moe_route(const Var& logits, const Tensor& bias, const RouteOptions& opt) {
  Tape& tape = *logits.tape;
  Ctx& ctx = tape.ctx;
  int64_t T = logits.value.rows(), E = logits.value.cols();
  Tensor probs = empty({T, E}), weight = empty({T, opt.top_k}),
         expert = empty({T, opt.top_k}, DType::I32);
  ctx.k->moe_route_fwd(ctx, probs, weight, expert, logits.value, bias, opt);
  // Two outputs, one derivative: the probabilities' gradient is put aside and joined to the
  // weights' in the weights' closure, which runs after every use of both (it is recorded first).
  auto aside = std::make_shared<Tensor>();
  auto join = [&ctx, opt, probs, weight, expert, dl = logits.grad, aside](const Tensor& dweight) {
    ctx.k->moe_route_bwd(ctx, dl(), dweight, *aside, probs, weight, expert, opt);
  };
  Var w = tape.record(weight, {logits.grad}, join);
  Var p = tape.record(probs, {logits.grad}, [aside, dw = w.grad](const Tensor& dprobs) {
    *aside = dprobs;
    dw();  // makes the weights' closure run even when the weights themselves were not used
  });
  return {p, w, expert};
}

Var moe_balance_loss(const Routing& r, const std::vector<int32_t>& rows) {
  Tape& tape = *r.probs.tape;
  int64_t E = r.probs.value.cols(), K = r.expert.cols();
  int64_t B = static_cast<int64_t>(rows.size()) - 1;
  Tensor f = zeros({B, E});  // picks of e in row b / (T_b K / E)
  double loss = 0;
  for (int64_t b = 0; b < B; ++b) {
    int64_t n = rows[b + 1] - rows[b];
    std::vector<double> mean(E, 0.0);
    for (int64_t t = rows[b]; t < rows[b + 1]; ++t) {
      for (int64_t k = 0; k < K; ++k)
        f.row(b)[r.expert.i32()[t * K + k]] += static_cast<float>(E) / static_cast<float>(n * K);
      for (int64_t e = 0; e < E; ++e) mean[e] += r.probs.value.row(t)[e];
    }
    for (int64_t e = 0; e < E; ++e) loss += f.row(b)[e] * mean[e] / static_cast<double>(n * B);
  }
  Tensor y = empty({1});
  y.f32()[0] = static_cast<float>(loss);
  return tape.record(y, {r.probs.grad}, [rows, f, B, E, dp = r.probs.grad](const Tensor& dy) {
    Tensor d = dp();
    for (int64_t b = 0; b < B; ++b) {
      float s = dy.f32()[0] / static_cast<float>((rows[b + 1] - rows[b]) * B);
      for (int64_t t = rows[b]; t < rows[b + 1]; ++t)
        for (int64_t e = 0; e < E; ++e) d.row(t)[e] += s * f.row(b)[e];
    }
  });
}

}  // namespace sutor
