// sutor merge: folds adapters into a copy of the model, and proves before the copy gets its name
// that it gives the logits of model + adapters: ESFT bit by bit; LoRA in float32 up to the order of
// sums, each stored weight being the nearest to W + s B A. PESC: LoRA so, routers and adapters as
// they are. A run's checkpoint-N as MODEL is folded into a model in the same way.
#include <algorithm>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/probe.h"
#include "apps/run_checkpoint.h"
#include "model/checkpoint.h"
#include "model/pesc_adapter.h"

namespace sutor {
namespace {

void declare(Args& a) {
  declare_model(a);
  a.string("out", "hub folder to write");
}

constexpr int64_t kDocuments = Probe::kDocuments, kTokens = Probe::kTokens;

bool same_routing(const Probe& a, const Probe& b, int64_t document) {
  for (size_t l = 0; l < a.experts.size(); ++l) {
    int64_t K = a.experts[l].cols(), at = document * kTokens * K;
    if (!std::equal(a.experts[l].i32() + at, a.experts[l].i32() + at + kTokens * K,
                    b.experts[l].i32() + at))
      return false;
  }
  return true;
}

// The change of a merge that is not rounded yet. Two experts of nearly the same probability may
// change places over the order of a sum; documents where they did prove nothing and are left out,
// which may be no more than half of them.
double unrounded_change(const Probe& apart, const Probe& merged) {
  Change c;
  int64_t used = 0;
  for (int64_t d = 0; d < kDocuments; ++d) {
    if (!same_routing(apart, merged, d)) continue;
    widen(c, apart.logits, merged.logits, d * kTokens, (d + 1) * kTokens);
    ++used;
  }
  check(2 * used >= kDocuments,
        "merging changed the routing of {} of {} probed documents: nothing written",
        kDocuments - used, kDocuments);
  return c.relative();
}

// Routers and adapters of PESC get the type of the weights around them, as in the published models.
void round_placed(Model& model, const Replaced& replaced, DType type) {
  for (const auto& [name, dir] : replaced)
    if (Param& p = model.params.at(name);
        type != DType::F32 && p.value.dtype == DType::F32 && is_pesc_adapter(dir))
      p.value = cast(p.value, type);
}

void run(const Args& a) {
  const std::string& out = a.required("out");
  const bool checkpoint = is_run_checkpoint(a.str("MODEL"));
  if (a.all("adapter").empty() && !checkpoint)
    throw UsageError("--adapter is missing: there is nothing to merge");
  check_model_folder_to_be(out);
  Ctx ctx = a.context(), exact = cpu_context(Compute::kF32);
  Replaced replaced;
  auto model = open_model(a, &replaced);
  bool lora = !model->folded.empty();
  for (const Param& p : model->params.all()) lora |= p.lora.has_value();
  // An ESFT adapter replaces tensors. A LoRA is merged in f64; before it is rounded, logits in f32
  // must agree but for the order of sums (an error of about 1e-5 that every layer may add to); what
  // rounding the weights then does is told in float32 too: in bf16 it would be lost in the noise of
  // computing W x + s B (A x) and W' x.
  Ctx& probe = lora ? exact : ctx;
  Tensor before, after;
  std::vector<MergedWeight> merged;
  double agreement = 0;
  if (lora) {
    Probe apart(exact, *model);
    before = apart.logits;
    merged = merge_unrounded(*model);
    agreement = unrounded_change(apart, Probe(exact, *model));
    double allowed = 1e-5 * static_cast<double>(model->config.layers);
    check(agreement <= allowed,
          "merging changed the float32 logits by {:.3g} of the largest (allowed {:.3g}): nothing "
          "written",
          agreement, allowed);
    round_merged(merged);
    round_placed(*model, replaced, merged.front().original.dtype);
  }
  after = Probe(probe, *model).logits;
  if (!lora) before = after;
  write_model(out, *model, hub_folder(a.str("MODEL")), [&](const std::string& dir) {
    auto stored = load_model(dir);
    for (const MergedWeight& m : merged) check_merged(m, stored->params.at(m.param->name).value);
    check(change(after, Probe(probe, *stored).logits).diff == 0, "{}: reads back with other logits",
          out);
  });
  double rounding = change(before, after).relative();
  if (a.on("json"))
    return print_json({{"out", out},
                       {"adapters", a.all("adapter").size()},
                       {"merged_weights", merged.size()},
                       {"logits_change_unrounded_f32", agreement},
                       {"logits_change", rounding}});
  const std::string what = a.all("adapter").empty()
                               ? a.str("MODEL")
                               : fmt::format("{} adapter(s)", a.all("adapter").size());
  if (!lora) return fmt::print("merged {} into {}; the same logits, bit by bit\n", what, out);
  fmt::print(
      "merged {} into {}; merging {} weights changes the float32 logits by {:.2g} of the largest "
      "(order of sums), rounding them to {} by {:.2g} (what that type cannot hold)\n",
      what, out, merged.size(), agreement, name_of(merged.front().original.dtype), rounding);
}

}  // namespace
const Command kMerge{"merge", "fold adapters into a model; proves that the logits stay",
                     "sutor merge model/ --adapter run/adapter --out merged/", declare, run};
}  // namespace sutor
