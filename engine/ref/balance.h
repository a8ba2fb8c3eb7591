#pragma once
// Balance losses of routers. The counts f are piecewise constant: gradients flow through the
// probabilities P only.
//   sequence: mean over sequences b of sum_e f_be P_be; f_be = picks of e in b / (T_b K / E), P_be
//   =
//     mean of p_e over b (DeepSeek-V2, arXiv 2405.04434 eq. 23-25; modeling_deepseek.py, seq_aux).
//     DeepSeek-V3 (arXiv 2412.19437 eq. 17-20) takes p_e / sum_j p_j for p_e, and for the picks the
//     K largest p whatever bias and groups chose.
//   switch: E sum_e f_e P_e, f_e = picks of e / N, P_e = mean of p_e, over the N unpadded tokens of
//     all MoE layers together (transformers, load_balancing_loss_func).
// Ops: engine/ops/balance.cpp; test: tests/kernels/balance.cpp.

#include <vector>

#include "engine/ref/moe_route.h"

namespace sutor::ref {

template <class T>
T sequence_balance(const T* probs, const int32_t* expert, const std::vector<int32_t>& rows,
                   int64_t experts, int64_t k, bool normalize) {
  using std::real;
  T loss = 0;
  int64_t sequences = static_cast<int64_t>(rows.size()) - 1;
  for (int64_t b = 0; b < sequences; ++b) {
    double n = rows[b + 1] - rows[b];
    std::vector<double> f(experts, 0.0);
    std::vector<T> mean(experts, T(0));
    for (int64_t t = rows[b]; t < rows[b + 1]; ++t) {
      const T* p = probs + t * experts;
      std::vector<int32_t> picks(expert + t * k, expert + (t + 1) * k);
      T sum = normalize ? T(0) : T(1);
      if (normalize) {
        std::vector<double> score;
        for (int64_t e = 0; e < experts; ++e) sum += p[e], score.push_back(real(p[e]));
        picks = descending(score);
        picks.resize(k);
      }
      for (int32_t e : picks) f[e] += static_cast<double>(experts) / (n * static_cast<double>(k));
      for (int64_t e = 0; e < experts; ++e) mean[e] += p[e] / sum / T(n);
    }
    for (int64_t e = 0; e < experts; ++e)
      loss += T(f[e]) * mean[e] / T(static_cast<double>(sequences));
  }
  return loss;
}

// By layer probs [T,E] and expert [T,K]; real [T], 0 = padding (null: no padding).
template <class T>
T switch_balance(const std::vector<const T*>& probs, const std::vector<const int32_t*>& expert,
                 const int32_t* real, int64_t tokens, int64_t experts, int64_t k) {
  std::vector<double> f(experts, 0.0);
  std::vector<T> sum(experts, T(0));
  double n = 0;
  for (size_t l = 0; l < probs.size(); ++l)
    for (int64_t t = 0; t < tokens; ++t) {
      if (real && real[t] == 0) continue;
      n += 1;
      for (int64_t i = 0; i < k; ++i) f[expert[l][t * k + i]] += 1;
      for (int64_t e = 0; e < experts; ++e) sum[e] += probs[l][t * experts + e];
    }
  T loss = 0;
  for (int64_t e = 0; e < experts; ++e)
    loss += T(static_cast<double>(experts) * f[e] / n) * sum[e] / T(n);
  return loss;
}

}  // namespace sutor::ref
