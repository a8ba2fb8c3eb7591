// sutor merge: folds adapters into a copy of the model, and proves before the copy gets its name
// that it gives the logits of model + adapters: ESFT bit by bit; LoRA in float32 up to the order of
// sums, each stored weight being the nearest to W + s B A.
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

struct Change {
  double diff = 0, top = 0;
  double relative() const { return top > 0 ? diff / top : diff; }
};

// Largest difference of a logit, and the largest logit.
Change change(const Tensor& a, const Tensor& b) {
  Change c;
  for (int64_t i = 0; i < a.numel(); ++i) {
    double d = std::abs(static_cast<double>(a.f32()[i]) - b.f32()[i]);
    c.diff = std::isnan(d) ? INFINITY : std::max(c.diff, d);
    c.top = std::max(c.top, std::abs(static_cast<double>(a.f32()[i])));
  }
  return c;
}

void run(const Args& a) {
  const std::string& out = a.required("out");
  if (a.all("adapter").empty()) throw UsageError("--adapter is missing: there is nothing to merge");
  check_model_folder_to_be(out);
  Ctx ctx = a.context(), exact = cpu_context(Compute::kF32);
  auto model = open_model(a);
  bool lora = false;
  for (const Param& p : model->params.all()) lora |= p.lora.has_value();
  // An ESFT adapter replaces tensors. A LoRA is merged in f64; before it is rounded, logits in f32
  // must agree but for the order of sums (an error of about 1e-5 that every layer may add to).
  Tensor before = probe(ctx, *model), after = before;
  std::vector<MergedWeight> merged;
  double agreement = 0;
  if (lora) {
    Tensor apart = probe(exact, *model);
    merged = merge_unrounded(*model);
    agreement = change(apart, probe(exact, *model)).relative();
    double allowed = 1e-5 * static_cast<double>(model->config.layers);
    check(agreement <= allowed,
          "merging changed the float32 logits by {:.3g} of the largest (allowed {:.3g}): nothing "
          "written",
          agreement, allowed);
    round_merged(merged);
    after = probe(ctx, *model);
  }
  write_model(out, *model, a.str("MODEL"), [&](const std::string& dir) {
    auto stored = load_model(dir);
    for (const MergedWeight& m : merged) check_merged(m, stored->params.at(m.param->name).value);
    check(change(after, probe(ctx, *stored)).diff == 0, "{}: reads back with other logits", out);
  });
  double rounding = change(before, after).relative();
  if (a.on("json"))
    return print_json({{"out", out},
                       {"adapters", a.all("adapter").size()},
                       {"merged_weights", merged.size()},
                       {"logits_change_unrounded_f32", agreement},
                       {"logits_change", rounding}});
  fmt::print("merged {} adapter(s) into {}; {}\n", a.all("adapter").size(), out,
             lora ? fmt::format("{} weights rounded once; logits change by {:.2g} of the largest "
                                "before rounding (float32), {:.2g} after ({})",
                                merged.size(), agreement, rounding, a.str("dtype"))
                  : "the same logits, bit by bit");
}

}  // namespace
const Command kMerge{"merge", "fold adapters into a model; proves that the logits stay",
                     "sutor merge model/ --adapter run/adapter --out merged/", declare, run};
}  // namespace sutor
