#pragma once
// Cross entropy: nll[t] = log sum_v e^{l[t,v]} - l[t,label]; dl = scale (softmax(l) -
// onehot(label)); label < 0: nll 0, dl 0. Kernel: engine/cpu/loss.cpp; test:
// tests/kernels/loss.cpp.

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>

namespace sutor::ref {

// grad may be null, or be `logits` itself.
template <class T>
void cross_entropy(T* nll, T* grad, const T* logits, const int32_t* labels, int64_t tokens,
                   int64_t vocab, T scale) {
  using std::exp, std::log, std::real;
  for (int64_t t = 0; t < tokens; ++t) {
    const T* l = logits + t * vocab;
    bool trained = labels[t] >= 0;
    double top = -INFINITY;  // a constant shift: the derivative does not see it
    for (int64_t v = 0; v < vocab; ++v) top = std::max(top, double(real(l[v])));
    T sum = 0;
    for (int64_t v = 0; v < vocab; ++v) sum += exp(l[v] - T(top));
    nll[t] = trained ? T(top) + log(sum) - l[labels[t]] : T(0);
    for (int64_t v = 0; grad && v < vocab; ++v)
      grad[t * vocab + v] =
          trained ? scale * (exp(l[v] - T(top)) / sum - T(v == labels[t] ? 1.0 : 0.0)) : T(0);
  }
}

}  // namespace sutor::ref
