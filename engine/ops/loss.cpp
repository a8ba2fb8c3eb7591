// Cross entropy of the next token, the output head included: logits exist one chunk of rows at a
// time, and their gradient is formed in the forward pass (chunked "fused linear cross entropy").
// Only trained tokens are computed. Kernel: engine/cpu/loss.cpp.
#include <algorithm>

#include "engine/ops.h"

namespace sutor {

int64_t loss_chunk_rows(int64_t vocab) {
  constexpr int64_t kChunkBytes = 64 << 20;
  return std::clamp<int64_t>(kChunkBytes / (vocab * 4), 32, 1024);
}

Var lm_loss(const Var& x, const Param& head, const Tensor& targets, float scale, Tensor nll) {
  Tape& tape = *x.tape;
  Ctx& ctx = tape.ctx;
  int64_t T = x.value.rows(), V = head.value.dim(0), H = x.value.cols();
  check(targets.numel() == T, "lm_loss: {} targets for {} tokens", targets.numel(), T);
  std::vector<int32_t> rows;
  for (int64_t t = 0; t < T; ++t) {
    int32_t id = targets.i32()[t];
    check(id < V, "target id {} at token {}: the vocabulary has {} ids", id, t, V);
    if (id >= 0) rows.push_back(static_cast<int32_t>(t));
    if (nll) nll.f32()[t] = 0;
  }
  Var w = tape.param(head);
  bool want = tape.recording() && (x.grad || w.grad);
  int64_t n = static_cast<int64_t>(rows.size());
  Tensor dx = want && x.grad ? zeros({n, H}) : Tensor{};
  Tensor idx = empty({n}, DType::I32);
  std::copy(rows.begin(), rows.end(), idx.i32());
  int64_t chunk = loss_chunk_rows(V);
  double sum = 0;
  for (int64_t lo = 0; lo < n; lo += chunk) {
    int64_t hi = std::min(n, lo + chunk);
    Tensor xs = empty({hi - lo, H}), logits = empty({hi - lo, V}), loss = empty({hi - lo}),
           labels = empty({hi - lo}, DType::I32);
    ctx.k->gather_fwd(ctx, xs, x.value, idx.slice(lo, hi));
    for (int64_t i = lo; i < hi; ++i) labels.i32()[i - lo] = targets.i32()[rows[i]];
    ctx.k->linear_fwd(ctx, logits, xs, w.value, {});
    ctx.k->cross_entropy(ctx, loss, logits, labels, scale, want);
    for (int64_t i = lo; i < hi; ++i) {
      sum += loss.f32()[i - lo];
      if (nll) nll.f32()[rows[i]] = loss.f32()[i - lo];
    }
    if (want)
      ctx.k->linear_bwd(ctx, dx ? dx.slice(lo, hi) : Tensor{}, w.grad(), {}, logits, xs, w.value);
  }
  Tensor y = empty({1});
  y.f32()[0] = static_cast<float>(sum * scale);
  // The head's own gradient is already in place with weight 1: a loss is seeded with 1 and nothing
  // else.
  return tape.record(y, {x.grad}, [&ctx, idx, dx, gx = x.grad](const Tensor& dy) {
    check(dy.f32()[0] == 1.0f, "lm_loss: seeded with {}, its gradient is formed for 1 alone",
          dy.f32()[0]);
    ctx.k->gather_bwd(ctx, gx(), dx, idx);
  });
}

}  // namespace sutor
