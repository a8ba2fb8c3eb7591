// Cross entropy: nll = log sum e^(l - max) + max - l[label]; dl = scale (softmax(l) -
// onehot(label)), written over the logits. A row (100k logits, 400 kB) stays in the L2 cache over
// its three passes: maximum, exponentials with their f64 sum, scaling. Specification:
// engine/ref/loss.h; test: tests/kernels/loss.cpp.
#include <cmath>

#include "engine/backend.h"
#include "engine/cpu/rows.h"

namespace sutor::cpu {

void cross_entropy(Ctx&, Tensor nll, Tensor logits, Tensor labels, float scale, bool want_grad) {
  int64_t V = logits.cols();
  const RowKernels& k = row_kernels();
  const int32_t* label = labels.i32();
  float* loss = nll.f32();
  by_rows(logits.rows(), V, [&](int64_t t) {
    float* l = logits.row(t);
    int32_t at = label[t];
    check(at < V, "label {} of token {}: the vocabulary has {} ids", at, t, V);
    if (at < 0) {
      loss[t] = 0;
      if (want_grad) std::fill(l, l + V, 0.0f);
      return;
    }
    float top = k.max(l, V), mine = l[at];
    double sum = k.exp_sum(want_grad ? l : nullptr, l, top, V);
    loss[t] = static_cast<float>(std::log(sum) + (static_cast<double>(top) - mine));
    if (!want_grad) return;
    k.scale(l, static_cast<float>(scale / sum), V);
    l[at] -= scale;
  });
}

}  // namespace sutor::cpu
