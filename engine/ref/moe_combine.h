#pragma once
// y[t] = (y[t] +) sum over k, in this order, of weight[t,k] rows[where[t,k]]: what a token gets
// back from its experts. Without weights: the plain sum.

#include <cstdint>

namespace sutor::ref {

template <class S>
void moe_combine(S* y, const S* rows, const S* weight, const int32_t* where, int64_t T, int64_t K,
                 int64_t H, bool add) {
  for (int64_t t = 0; t < T; ++t)
    for (int64_t h = 0; h < H; ++h) {
      S sum = add ? y[t * H + h] : S(0);
      for (int64_t k = 0; k < K; ++k)
        sum += (weight ? weight[t * K + k] : S(1)) * rows[where[t * K + k] * H + h];
      y[t * H + h] = sum;
    }
}

}  // namespace sutor::ref
