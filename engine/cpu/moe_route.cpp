// Router: p = softmax(l) or sigmoid(l); the best k by p + bias among the eligible groups, ties to the lower id; weights p (divided
// by their sum if normalised) times scale. Sources: modeling_deepseek.py MoEGate.forward of DeepSeek-V2 and V3.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "engine/backend.h"
#include "engine/parallel.h"

namespace sutor::cpu {
namespace {

// Marks the experts of the topk_group best-rated groups.
void eligible_groups(const std::vector<float>& choice, const RouteOptions& opt, std::vector<char>& ok) {
  int64_t E = static_cast<int64_t>(choice.size()), per = E / opt.n_group;
  std::vector<float> rate(opt.n_group);
  for (int g = 0; g < opt.n_group; ++g) {
    float best = -INFINITY, second = -INFINITY;
    for (int64_t e = g * per; e < (g + 1) * per; ++e) {
      if (choice[e] > best) second = best, best = choice[e];
      else second = std::max(second, choice[e]);
    }
    rate[g] = opt.group_score == GroupScore::kMax ? best : best + second;
  }
  std::vector<int> order(opt.n_group);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return rate[a] > rate[b]; });
  std::fill(ok.begin(), ok.end(), 0);
  for (int i = 0; i < opt.topk_group; ++i) std::fill_n(ok.begin() + order[i] * per, per, 1);
}

}  // namespace

void moe_route_fwd(Ctx&, Tensor probs, Tensor weight, Tensor expert, Tensor logits, Tensor bias, RouteOptions opt) {
  int64_t E = logits.cols(), K = opt.top_k;
  parallel_for(logits.rows(), 16, [&](int64_t lo, int64_t hi) {
    std::vector<float> choice(E);
    std::vector<char> ok(E, 1);
    std::vector<int32_t> order(E);
    for (int64_t t = lo; t < hi; ++t) {
      const float* l = logits.row(t);
      float* p = probs.row(t);
      if (opt.score == RouteScore::kSoftmax) {
        float top = *std::max_element(l, l + E);
        double sum = 0;
        for (int64_t e = 0; e < E; ++e) sum += p[e] = std::exp(l[e] - top);
        for (int64_t e = 0; e < E; ++e) p[e] = static_cast<float>(p[e] / sum);
      } else {
        for (int64_t e = 0; e < E; ++e) p[e] = 1.0f / (1.0f + std::exp(-l[e]));
      }
      for (int64_t e = 0; e < E; ++e) choice[e] = p[e] + (bias ? bias.f32()[e] : 0.0f);
      if (opt.n_group > 1) eligible_groups(choice, opt, ok);
      order.clear();
      for (int64_t e = 0; e < E; ++e)
        if (ok[e]) order.push_back(static_cast<int32_t>(e));
      std::partial_sort(order.begin(), order.begin() + K, order.end(),
                        [&](int32_t a, int32_t b) { return choice[a] != choice[b] ? choice[a] > choice[b] : a < b; });
      float sum = 1e-20f, *w = weight.row(t);
      for (int64_t k = 0; k < K; ++k) {
        expert.i32()[t * K + k] = order[k];
        sum += w[k] = p[order[k]];
      }
      for (int64_t k = 0; k < K; ++k) w[k] = (opt.normalize ? w[k] / sum : w[k]) * opt.scale;
    }
  });
}

void moe_route_bwd(Ctx&, Tensor dlogits, Tensor dweight, Tensor dprobs, Tensor probs, Tensor, Tensor expert, RouteOptions opt) {
  if (!dlogits) return;
  int64_t E = probs.cols(), K = opt.top_k;
  parallel_for(probs.rows(), 16, [&](int64_t lo, int64_t hi) {
    std::vector<double> dp(E);
    for (int64_t t = lo; t < hi; ++t) {
      const float* p = probs.row(t);
      const int32_t* chosen = expert.i32() + t * K;
      for (int64_t e = 0; e < E; ++e) dp[e] = dprobs ? dprobs.row(t)[e] : 0.0f;
      if (dweight) {
        double sum = 1e-20, dot = 0;
        for (int64_t k = 0; k < K; ++k) sum += p[chosen[k]];
        for (int64_t k = 0; k < K; ++k) dot += static_cast<double>(dweight.row(t)[k]) * p[chosen[k]];
        for (int64_t k = 0; k < K; ++k) {
          double g = dweight.row(t)[k];
          dp[chosen[k]] += opt.scale * (opt.normalize ? g / sum - dot / (sum * sum) : g);
        }
      }
      float* d = dlogits.row(t);
      if (opt.score == RouteScore::kSoftmax) {
        double dot = 0;
        for (int64_t e = 0; e < E; ++e) dot += dp[e] * p[e];
        for (int64_t e = 0; e < E; ++e) d[e] += static_cast<float>(p[e] * (dp[e] - dot));
      } else {
        for (int64_t e = 0; e < E; ++e) d[e] += static_cast<float>(dp[e] * p[e] * (1.0 - p[e]));
      }
    }
  });
}

}  // namespace sutor::cpu
