#include "apps/probe.h"

#include <algorithm>
#include <cmath>

#include "model/generate.h"

namespace sutor {

Probe::Probe(Ctx& ctx, Model& model) {
  std::vector<std::vector<int32_t>> ids(kDocuments);
  for (int64_t i = 0; i < kDocuments * kTokens; ++i)
    ids[i / kTokens].push_back(static_cast<int32_t>(static_cast<uint64_t>(i) * 2654435761u %
                                                    static_cast<uint64_t>(model.config.vocab)));
  Tape tape(ctx, false);
  logits = logits_of(ctx, model, model.hidden(tape, make_batch(ids), *this, nullptr).value);
}

void widen(Change& c, const Tensor& a, const Tensor& b, int64_t lo, int64_t hi) {
  for (int64_t i = lo * a.cols(); i < hi * a.cols(); ++i) {
    double d = std::abs(static_cast<double>(a.f32()[i]) - b.f32()[i]);
    c.diff = std::isnan(d) ? INFINITY : std::max(c.diff, d);
    c.top = std::max(c.top, std::abs(static_cast<double>(a.f32()[i])));
  }
}

Change change(const Tensor& a, const Tensor& b) {
  Change c;
  widen(c, a, b, 0, a.rows());
  return c;
}

}  // namespace sutor
