// Router: p = softmax(l) or sigmoid(l); the best k by p + bias among the eligible groups, ties to
// the lower id; weights p (divided by their sum if normalised) times scale. Specification and
// sources: engine/ref/moe_route.h; test: tests/kernels/moe_route.cpp.
#include <cmath>
#include <vector>

#include "engine/backend.h"
#include "engine/cpu/rows.h"

namespace sutor::cpu {
namespace {

// The k best of n scores where ok (null: all), in descending order, ties to the lower id.
// Insertion, as k is small; NaN never beats anything, so that there are always k ids as long as k
// are eligible.
void best(int32_t* chosen, int64_t k, const float* score, const char* ok, int64_t n) {
  int64_t have = 0;
  for (int32_t e = 0; e < n; ++e) {
    if (ok && !ok[e]) continue;
    if (have == k && !(score[e] > score[chosen[k - 1]])) continue;
    int64_t at = have < k ? have++ : k - 1;
    for (; at > 0 && score[e] > score[chosen[at - 1]]; --at) chosen[at] = chosen[at - 1];
    chosen[at] = e;
  }
}

// Marks the experts of the topk_group best-rated groups.
void mark_eligible(char* ok, float* rate, int32_t* order, const float* score, int64_t per,
                   const RouteOptions& opt) {
  int32_t two[2];
  for (int g = 0; g < opt.n_group; ++g) {
    const float* s = score + g * per;
    best(two, std::min<int64_t>(2, per), s, nullptr, per);
    rate[g] = opt.group_score == GroupScore::kMax || per == 1 ? s[two[0]] : s[two[0]] + s[two[1]];
  }
  best(order, opt.topk_group, rate, nullptr, opt.n_group);
  std::fill_n(ok, opt.n_group * per, 0);
  for (int i = 0; i < opt.topk_group; ++i) std::fill_n(ok + order[i] * per, per, 1);
}

void check_options(const RouteOptions& o, int64_t E) {
  check(o.n_group >= 1 && E % o.n_group == 0 && o.topk_group >= 1 && o.topk_group <= o.n_group,
        "moe_route: {} experts in n_group {} with topk_group {}", E, o.n_group, o.topk_group);
  check(o.top_k >= 1 && o.top_k <= E / o.n_group * o.topk_group,
        "moe_route: top_k {} of {} eligible experts", o.top_k, E / o.n_group * o.topk_group);
}

}  // namespace

void moe_route_fwd(Ctx&, Tensor probs, Tensor weight, Tensor expert, Tensor logits, Tensor bias,
                   RouteOptions opt) {
  int64_t E = logits.cols(), K = opt.top_k;
  check_options(opt, E);
  const RowKernels& k = row_kernels();
  parallel_for(logits.rows(), 16, [&](int64_t lo, int64_t hi) {
    std::vector<float> score(E), rate(opt.n_group);
    std::vector<int32_t> order(opt.n_group);
    std::vector<char> ok(E, 1);
    for (int64_t t = lo; t < hi; ++t) {
      float *p = probs.row(t), *w = weight.row(t);
      int32_t* chosen = expert.i32() + t * expert.ld;
      if (opt.score == RouteScore::kSoftmax) {
        double sum = k.exp_sum(p, logits.row(t), k.max(logits.row(t), E), E);
        k.scale(p, static_cast<float>(1.0 / sum), E);
      } else {
        k.sigmoid(p, logits.row(t), E);
      }
      const float* s = p;
      if (bias) {
        k.add(score.data(), p, bias.f32(), E);
        s = score.data();
      }
      bool grouped = opt.topk_group < opt.n_group;
      if (grouped) mark_eligible(ok.data(), rate.data(), order.data(), s, E / opt.n_group, opt);
      best(chosen, K, s, grouped ? ok.data() : nullptr, E);
      float sum = 1e-20f;
      for (int64_t i = 0; i < K; ++i) sum += w[i] = p[chosen[i]];
      for (int64_t i = 0; i < K; ++i) w[i] = (opt.normalize ? w[i] / sum : w[i]) * opt.scale;
    }
  });
}

void moe_route_bwd(Ctx&, Tensor dlogits, Tensor dweight, Tensor dprobs, Tensor probs, Tensor,
                   Tensor expert, RouteOptions opt) {
  if (!dlogits) return;
  int64_t E = probs.cols(), K = opt.top_k;
  parallel_for(probs.rows(), 16, [&](int64_t lo, int64_t hi) {
    std::vector<double> dp(E);
    for (int64_t t = lo; t < hi; ++t) {
      const float* p = probs.row(t);
      const int32_t* chosen = expert.i32() + t * expert.ld;
      for (int64_t e = 0; e < E; ++e) dp[e] = dprobs ? dprobs.row(t)[e] : 0.0f;
      if (dweight) {
        const float* dw = dweight.row(t);
        double sum = 1e-20, dot = 0;
        for (int64_t i = 0; i < K; ++i) sum += p[chosen[i]];
        for (int64_t i = 0; i < K; ++i) dot += static_cast<double>(dw[i]) * p[chosen[i]];
        for (int64_t i = 0; i < K; ++i)
          dp[chosen[i]] += opt.scale * (opt.normalize ? dw[i] / sum - dot / (sum * sum) : dw[i]);
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
