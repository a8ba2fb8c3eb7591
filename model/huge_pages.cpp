#include "model/huge_pages.h"

#include <cstring>

#include "engine/parallel.h"
#include "engine/quant.h"

namespace sutor {
namespace {

constexpr int64_t kAlign = 64;

bool moves(const Model& model, const Param& p) {
  bool embedding = p.name.ends_with("embed_tokens.weight") && &p != &model.head();
  return p.value.storage && p.value.storage->mapped() && p.value.shape.size() == 2 &&
         p.value.contiguous() && !p.trainable && !p.remote && !embedding;
}

}  // namespace

int64_t mapped_weight_bytes(const Model& model) {
  int64_t bytes = 0;
  for (const Param& p : model.params.all())
    if (moves(model, p)) bytes += p.value.nbytes();
  return bytes;
}

int64_t move_to_huge_pages(Model& model) {
  std::vector<Param*> params;
  std::vector<int64_t> at;
  int64_t total = 0, bytes = 0;
  for (Param& p : model.params.all()) {
    if (!moves(model, p)) continue;
    params.push_back(&p);
    at.push_back(total);
    bytes += p.value.nbytes();
    total += (p.value.nbytes() + kAlign - 1) / kAlign * kAlign;
  }
  if (params.empty()) return 0;
  Tensor all = empty({total}, DType::U8);  // one block: huge pages but for its end
  parallel_for(static_cast<int64_t>(params.size()), 1, [&](int64_t lo, int64_t hi) {
    for (int64_t i = lo; i < hi; ++i) {
      Tensor& w = params[i]->value;
      std::byte* to = all.data + at[i];
      std::memcpy(to, w.data, w.nbytes());
      Tensor there = moved(w, all.storage, to);
      forget_pages(w);
      w = there;
    }
  });
  return bytes;
}

}  // namespace sutor
