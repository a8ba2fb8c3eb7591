#pragma once
// What commands that write a model compare before it gets its name: the logits of a few short
// documents.

#include <vector>

#include "model/model.h"

namespace sutor {

// Logits [kDocuments * kTokens, V], and the experts each token was routed to.
struct Probe : Trace {
  static constexpr int64_t kDocuments = 16, kTokens = 4;
  Tensor logits;
  std::vector<Tensor> experts;  // per MoE layer, I32 [T,K]
  Probe(Ctx& ctx, Model& model);
  void routing(int, const Routing& r) override { experts.push_back(clone(r.expert)); }
};

struct Change {
  double diff = 0, top = 0;  // largest difference of a logit, largest logit
  double relative() const { return top > 0 ? diff / top : diff; }
};
void widen(Change& c, const Tensor& a, const Tensor& b, int64_t lo, int64_t hi);  // by rows lo..hi
Change change(const Tensor& a, const Tensor& b);

}  // namespace sutor
