// sutor merge: folds adapters into a copy of the model, and proves that merged logits equal
// unmerged ones before it finishes.
#include <cmath>
#include <filesystem>

#include "apps/commands.h"
#include "apps/common.h"
#include "model/checkpoint.h"
#include "model/generate.h"

namespace sutor {
namespace {

void declare(Args& a) {
  declare_model(a);
  a.string("out", "hub folder to write");
}

Tensor probe(Ctx& ctx, Model& model) {
  std::vector<int32_t> ids;
  for (int i = 0; i < 16; ++i)
    ids.push_back(
        static_cast<int32_t>((i * 2654435761u) % static_cast<uint64_t>(model.config.vocab)));
  Tape tape(ctx, false);
  Trace none;
  return logits_of(ctx, model, model.hidden(tape, make_batch({ids}), none, nullptr).value);
}

void run(const Args& a) {
  const std::string& out = a.required("out");
  if (a.all("adapter").empty()) throw UsageError("--adapter is missing: there is nothing to merge");
  Ctx ctx = a.context();
  auto model = open_model(a);
  bool lora = false;
  for (const Param& p : model->params.all()) lora |= p.lora.has_value();
  Tensor before = probe(ctx, *model);
  merge_lora(*model);
  Tensor after = probe(ctx, *model);
  // An ESFT adapter replaces tensors: bitwise. A LoRA is rounded once into the weights' type.
  double diff = 0, top = 0;
  for (int64_t i = 0; i < before.numel(); ++i) {
    diff = std::max(diff, std::abs(static_cast<double>(before.f32()[i]) - after.f32()[i]));
    top = std::max(top, std::abs(static_cast<double>(before.f32()[i])));
  }
  double allowed = lora ? 0.05 : 0.0;
  check(diff <= allowed * top,
        "merging changed the logits by {:.3g} of their size (allowed {}): nothing written",
        diff / top, allowed);
  write_model(out, *model, a.str("MODEL"));
  auto merged = load_model(out);
  Tensor reloaded = probe(ctx, *merged);
  for (int64_t i = 0; i < after.numel(); ++i)
    check(after.f32()[i] == reloaded.f32()[i], "{}: reads back with other logits", out);
  fmt::print(
      "merged {} adapter(s) into {}; largest change of a logit {:.2g} of the largest logit\n",
      a.all("adapter").size(), out, diff / top);
}

}  // namespace
const Command kMerge{"merge", "fold adapters into a model; proves that the logits stay",
                     "sutor merge model/ --adapter run/adapter --out merged/", declare, run};
}  // namespace sutor
