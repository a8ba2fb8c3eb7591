#pragma once
// Router: p = softmax(l) or sigmoid(l); choose the K largest of p + bias among the experts of the
// topk_group best groups (rated by their best, or by the sum of their two best), ties to the lower
// id; weight = p of the chosen [/ (their sum + 1e-20)] * scale. The choice is piecewise constant:
// gradients flow through p only, the bias has none. Sources: modeling_deepseek.py MoEGate.forward
// of DeepSeek-V2 (greedy, group_limited_greedy) and V3 (noaux_tc). Kernel:
// engine/cpu/moe_route.cpp; test: tests/kernels/moe_route.cpp.

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <numeric>
#include <vector>

#include "engine/moe.h"

namespace sutor::ref {

// Ids of v in descending order, ties by the lower id.
inline std::vector<int32_t> descending(const std::vector<double>& v) {
  std::vector<int32_t> id(v.size());
  std::iota(id.begin(), id.end(), 0);
  std::stable_sort(id.begin(), id.end(), [&](int32_t a, int32_t b) { return v[a] > v[b]; });
  return id;
}

inline std::vector<int32_t> choose_experts(const std::vector<double>& score,
                                           const RouteOptions& opt) {
  size_t per = score.size() / opt.n_group;
  std::vector<double> rate;
  for (size_t g = 0; g < score.size(); g += per) {
    std::vector<double> group(score.begin() + g, score.begin() + g + per);
    std::sort(group.rbegin(), group.rend());
    rate.push_back(opt.group_score == GroupScore::kMax || per == 1 ? group[0]
                                                                   : group[0] + group[1]);
  }
  std::vector<int32_t> groups = descending(rate), chosen;
  groups.resize(opt.topk_group);
  for (int32_t e : descending(score))
    if (std::count(groups.begin(), groups.end(), int32_t(e / per)) &&
        int(chosen.size()) < opt.top_k)
      chosen.push_back(e);
  return chosen;
}

template <class T>
void moe_route_fwd(T* probs, T* weight, int32_t* expert, const T* logits, const T* bias,
                   int64_t tokens, int64_t experts, const RouteOptions& opt) {
  using std::exp, std::real;
  for (int64_t t = 0; t < tokens; ++t) {
    const T* l = logits + t * experts;
    T *p = probs + t * experts, *w = weight + t * opt.top_k, all = 0, sum = 1e-20;
    double top = -INFINITY;
    for (int64_t e = 0; e < experts; ++e) top = std::max(top, double(real(l[e])));
    for (int64_t e = 0; e < experts; ++e) all += exp(l[e] - T(top));
    std::vector<double> score(experts);
    for (int64_t e = 0; e < experts; ++e) {
      p[e] =
          opt.score == RouteScore::kSoftmax ? exp(l[e] - T(top)) / all : T(1) / (T(1) + exp(-l[e]));
      score[e] = real(p[e]) + (bias ? real(bias[e]) : 0.0);
    }
    std::vector<int32_t> chosen = choose_experts(score, opt);
    for (int32_t e : chosen) sum += p[e];
    for (int k = 0; k < opt.top_k; ++k) {
      expert[t * opt.top_k + k] = chosen[k];
      w[k] = (opt.normalize ? p[chosen[k]] / sum : p[chosen[k]]) * T(opt.scale);
    }
  }
}

// dp = dprobs + scale * (normalised: dw/S - <dw, p>/S^2, else dw) at the chosen; softmax: dl += p
// (dp - <dp, p>); sigmoid: dl += dp p (1 - p).
template <class T>
void moe_route_bwd(T* dlogits, const T* dweight, const T* dprobs, const T* probs,
                   const int32_t* expert, int64_t tokens, int64_t experts,
                   const RouteOptions& opt) {
  for (int64_t t = 0; t < tokens; ++t) {
    const T* p = probs + t * experts;
    const int32_t* chosen = expert + t * opt.top_k;
    std::vector<T> dp(experts, T(0));
    for (int64_t e = 0; dprobs && e < experts; ++e) dp[e] = dprobs[t * experts + e];
    T sum = 1e-20, dot = 0, all = 0;
    for (int k = 0; dweight && k < opt.top_k; ++k) {
      sum += p[chosen[k]];
      dot += dweight[t * opt.top_k + k] * p[chosen[k]];
    }
    for (int k = 0; dweight && k < opt.top_k; ++k) {
      T g = dweight[t * opt.top_k + k];
      dp[chosen[k]] += T(opt.scale) * (opt.normalize ? g / sum - dot / (sum * sum) : g);
    }
    for (int64_t e = 0; e < experts; ++e) all += dp[e] * p[e];
    for (int64_t e = 0; e < experts; ++e)
      dlogits[t * experts + e] +=
          opt.score == RouteScore::kSoftmax ? p[e] * (dp[e] - all) : dp[e] * p[e] * (T(1) - p[e]);
  }
}

}  // namespace sutor::ref
