// Balance losses of routers: what they are is in engine/ref/balance.h.
#include <numeric>

#include "engine/ops.h"

namespace sutor {
namespace {

// Ids of the k largest of p[E], ties to the lower id.
void largest(std::vector<int32_t>& ids, const float* p, int64_t E, int64_t k) {
  ids.resize(E);
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + k, ids.end(),
                    [p](int32_t a, int32_t b) { return p[a] != p[b] ? p[a] > p[b] : a < b; });
  ids.resize(k);
}

}  // namespace

Var moe_balance_loss(const Routing& r, const std::vector<int32_t>& rows, bool normalize) {
  Tape& tape = *r.probs.tape;
  int64_t E = r.probs.value.cols(), K = r.expert.cols();
  int64_t B = static_cast<int64_t>(rows.size()) - 1;
  Tensor f = zeros({B, E});  // picks of e in row b / (T_b K / E)
  double loss = 0;
  std::vector<int32_t> picks;
  for (int64_t b = 0; b < B; ++b) {
    int64_t n = rows[b + 1] - rows[b];
    std::vector<double> mean(E, 0.0);
    std::vector<int64_t> count(E, 0);  // whole: thousands of small floats would not add up
    for (int64_t t = rows[b]; t < rows[b + 1]; ++t) {
      const float* p = r.probs.value.row(t);
      double sum = 1;
      if (normalize) {
        largest(picks, p, E, K);
        sum = std::accumulate(p, p + E, 0.0);
      } else {
        picks.assign(r.expert.i32() + t * K, r.expert.i32() + (t + 1) * K);
      }
      for (int32_t e : picks) ++count[e];
      for (int64_t e = 0; e < E; ++e) mean[e] += p[e] / sum;
    }
    for (int64_t e = 0; e < E; ++e) {
      double share = static_cast<double>(E * count[e]) / static_cast<double>(n * K);
      f.row(b)[e] = static_cast<float>(share);
      loss += share * mean[e] / static_cast<double>(n * B);
    }
  }
  Tensor y = empty({1});
  y.f32()[0] = static_cast<float>(loss);
  return tape.record(y, {r.probs.grad},
                     [rows, f, B, E, normalize, probs = normalize ? r.probs.value : Tensor{},
                      dp = r.probs.grad](const Tensor& dy) {
                       Tensor d = dp();
                       for (int64_t b = 0; b < B; ++b) {
                         float s = dy.f32()[0] / static_cast<float>((rows[b + 1] - rows[b]) * B);
                         for (int64_t t = rows[b]; t < rows[b + 1]; ++t) {
                           // d (p_e / S) = dp_e / S - p_e dS / S^2
                           double sum = 1, dot = 0;
                           if (normalize) {
                             sum = std::accumulate(probs.row(t), probs.row(t) + E, 0.0);
                             for (int64_t e = 0; e < E; ++e)
                               dot += f.row(b)[e] * probs.row(t)[e] / (sum * sum);
                           }
                           for (int64_t e = 0; e < E; ++e)
                             d.row(t)[e] += static_cast<float>(s * (f.row(b)[e] / sum - dot));
                         }
                       }
                     });
}

Var moe_load(const Routing& r, const Tensor& real) {
  Tape& tape = *r.probs.tape;
  int64_t T = r.probs.value.rows(), E = r.probs.value.cols(), K = r.expert.cols();
  std::vector<double> picks(E, 0.0), sum(E, 0.0);
  for (int64_t t = 0; t < T; ++t) {
    if (real && real.i32()[t] == 0) continue;
    for (int64_t k = 0; k < K; ++k) picks[r.expert.i32()[t * K + k]] += 1;
    for (int64_t e = 0; e < E; ++e) sum[e] += r.probs.value.row(t)[e];
  }
  Tensor y = empty({2, E});
  for (int64_t e = 0; e < E; ++e) {
    y.row(0)[e] = static_cast<float>(picks[e]);
    y.row(1)[e] = static_cast<float>(sum[e]);
  }
  return tape.record(y, {r.probs.grad}, [T, E, real, dp = r.probs.grad](const Tensor& dy) {
    Tensor d = dp();
    for (int64_t t = 0; t < T; ++t) {
      if (real && real.i32()[t] == 0) continue;
      for (int64_t e = 0; e < E; ++e) d.row(t)[e] += dy.row(1)[e];
    }
  });
}

Var switch_balance_loss(const std::vector<Var>& loads, int top_k) {
  check(!loads.empty(), "balance loss: the model has no MoE layer");
  Tape& tape = *loads[0].tape;
  int64_t E = loads[0].value.cols();
  std::vector<double> picks(E, 0.0), sum(E, 0.0);
  Grad any;
  for (const Var& l : loads) {
    if (l.grad) any = l.grad;
    for (int64_t e = 0; e < E; ++e) {
      picks[e] += l.value.row(0)[e];
      sum[e] += l.value.row(1)[e];
    }
  }
  double N = std::max(1.0, std::accumulate(picks.begin(), picks.end(), 0.0) / top_k), loss = 0;
  Tensor factor = empty({E});  // dloss / dsum
  for (int64_t e = 0; e < E; ++e) {
    loss += static_cast<double>(E) * picks[e] * sum[e] / (N * N);
    factor.f32()[e] = static_cast<float>(static_cast<double>(E) * picks[e] / (N * N));
  }
  Tensor y = empty({1});
  y.f32()[0] = static_cast<float>(loss);
  std::vector<Grad> grads;
  for (const Var& l : loads) grads.push_back(l.grad);
  return tape.record(y, {any}, [grads, factor, E](const Tensor& dy) {
    for (const Grad& g : grads) {
      Tensor d = g();
      if (!d) continue;
      for (int64_t e = 0; e < E; ++e) d.row(1)[e] += dy.f32()[0] * factor.f32()[e];
    }
  });
}

}  // namespace sutor
