#pragma once
// attention, causal inside a document: o = softmax(scale q k^T) v over keys start[pos]..pos, lse =
// log sum exp(scale q k^T). q[Tq,N,D], k[Tk,G,D], v[Tk,G,Dv]; query i has position Tk - Tq + i,
// head n reads key head n / (N/G); start[Tk]. Backward: P = exp(s - lse); dv += P^T do; dP = do
// v^T; dS = P (dP - <do, o>) scale; dq += dS k; dk += dS^T q. Kernel: engine/cpu/attention.cpp;
// test: tests/kernels/attention.cpp.

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

namespace sutor::ref {

struct AttentionDims {
  int64_t tq, tk, heads, kv_heads, d, dv;
};

template <class T>
T attention_score(const T* q, const T* k, int64_t d, T scale) {
  T s = 0;
  for (int64_t i = 0; i < d; ++i) s += q[i] * k[i];
  return s * scale;
}

template <class T>
void attention_fwd(T* o, T* lse, const T* q, const T* k, const T* v, const int32_t* start,
                   const AttentionDims& n, T scale) {
  using std::exp, std::log, std::real;
  std::vector<T> s(n.tk);
  for (int64_t row = 0; row < n.tq * n.heads; ++row) {
    int64_t pos = n.tk - n.tq + row / n.heads, g = row % n.heads / (n.heads / n.kv_heads);
    double top = -INFINITY;  // a constant shift: the derivative does not see it
    for (int64_t j = start[pos]; j <= pos; ++j) {
      s[j] = attention_score(q + row * n.d, k + (j * n.kv_heads + g) * n.d, n.d, scale);
      top = std::max(top, double(real(s[j])));
    }
    T sum = 0;
    for (int64_t c = 0; c < n.dv; ++c) o[row * n.dv + c] = 0;
    for (int64_t j = start[pos]; j <= pos; ++j) sum += s[j] = exp(s[j] - T(top));
    for (int64_t j = start[pos]; j <= pos; ++j)
      for (int64_t c = 0; c < n.dv; ++c)
        o[row * n.dv + c] += s[j] / sum * v[(j * n.kv_heads + g) * n.dv + c];
    lse[row] = T(top) + log(sum);
  }
}

template <class T>
void attention_bwd(T* dq, T* dk, T* dv, const T* dout, const T* o, const T* lse, const T* q,
                   const T* k, const T* v, const int32_t* start, const AttentionDims& n, T scale) {
  using std::exp;
  for (int64_t row = 0; row < n.tq * n.heads; ++row) {
    int64_t pos = n.tk - n.tq + row / n.heads, g = row % n.heads / (n.heads / n.kv_heads);
    const T *qr = q + row * n.d, *dor = dout + row * n.dv;
    T delta = 0;
    for (int64_t c = 0; c < n.dv; ++c) delta += dor[c] * o[row * n.dv + c];
    for (int64_t j = start[pos]; j <= pos; ++j) {
      int64_t kr = j * n.kv_heads + g;
      T p = exp(attention_score(qr, k + kr * n.d, n.d, scale) - lse[row]), dp = 0;
      for (int64_t c = 0; c < n.dv; ++c) {
        dp += dor[c] * v[kr * n.dv + c];
        if (dv) dv[kr * n.dv + c] += p * dor[c];
      }
      T ds = p * (dp - delta) * scale;
      for (int64_t i = 0; i < n.d; ++i) {
        if (dq) dq[row * n.d + i] += ds * k[kr * n.d + i];
        if (dk) dk[kr * n.d + i] += ds * qr[i];
      }
    }
  }
}

}  // namespace sutor::ref
