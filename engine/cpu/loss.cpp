// nll = logsumexp(l) - l[label]; dl = scale (softmax(l) - onehot(label)).
#include <cmath>

#include "engine/backend.h"
#include "engine/parallel.h"

namespace sutor::cpu {

void cross_entropy(Ctx&, Tensor nll, Tensor logits, Tensor labels, float scale, bool want_grad) {
  int64_t V = logits.cols();
  parallel_for(logits.rows(), 1, [&](int64_t lo, int64_t hi) {
    for (int64_t t = lo; t < hi; ++t) {
      float* l = logits.row(t);
      int32_t label = labels.i32()[t];
      if (label < 0) {
        nll.f32()[t] = 0;
        if (want_grad) std::fill(l, l + V, 0.0f);
        continue;
      }
      float top = l[0];
      for (int64_t v = 1; v < V; ++v) top = std::max(top, l[v]);
      double sum = 0;
      float at_label = l[label];
      for (int64_t v = 0; v < V; ++v) {
        float e = std::exp(l[v] - top);
        sum += e;
        if (want_grad) l[v] = e;
      }
      nll.f32()[t] = static_cast<float>(std::log(sum) + top - at_label);
      if (!want_grad) continue;
      float c = static_cast<float>(scale / sum);
      for (int64_t v = 0; v < V; ++v) l[v] *= c;
      l[label] -= scale;
    }
  });
}

}  // namespace sutor::cpu
