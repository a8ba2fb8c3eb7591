// Scores of a router, the chosen experts and their weights. Kernel: engine/cpu/moe_route.cpp.
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

}  // namespace sutor
