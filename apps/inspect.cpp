// sutor inspect: what a model folder holds.
#include <map>

#include "apps/commands.h"
#include "apps/common.h"

namespace sutor {
namespace {

void declare(Args& a) {
  a.positional("MODEL", "hub folder");
  a.flag("json", "as JSON");
  a.flag("quiet", "no progress on stderr");
}

std::string group_of(const std::string& name) {
  if (name.find(".mlp.experts.") != std::string::npos) return "routed experts";
  if (name.find(".shared_experts.") != std::string::npos) return "shared experts";
  if (name.find(".mlp.gate.weight") != std::string::npos) return "routers";
  if (name.find(".mlp.") != std::string::npos) return "dense MLPs";
  if (name.find(".self_attn.") != std::string::npos) return "attention";
  if (name.find("norm") != std::string::npos) return "norms";
  return "embeddings and head";
}

void run(const Args& a) {
  auto model = load_model(a.str("MODEL"));
  const Config& c = model->config;
  std::map<std::string, int64_t> groups, dtypes;
  int64_t total = 0, bytes = 0;
  for (const Param& p : model->params.all()) {
    groups[group_of(p.name)] += p.value.numel();
    dtypes[std::string(name_of(p.value.dtype))] += p.value.numel();
    total += p.value.numel();
    bytes += p.value.nbytes();
  }
  int64_t moe = static_cast<int64_t>(c.moe_layers().size());
  int64_t active = total - groups["routed experts"] +
                   (c.experts > 0 ? groups["routed experts"] / c.experts * c.route.top_k : 0);
  if (a.on("json"))
    return print_json({{"model_type", c.model_type},
                       {"parameters", total},
                       {"active_parameters", active},
                       {"bytes", bytes},
                       {"layers", c.layers},
                       {"moe_layers", moe},
                       {"experts", c.experts},
                       {"top_k", c.route.top_k},
                       {"hidden", c.hidden},
                       {"expert_width", c.expert_width},
                       {"vocab", c.vocab},
                       {"groups", groups},
                       {"dtypes", dtypes}});
  fmt::print("{}  {:.3f} M parameters ({:.3f} M active per token), {:.1f} MB\n", c.model_type,
             static_cast<double>(total) * 1e-6, static_cast<double>(active) * 1e-6,
             static_cast<double>(bytes) * 1e-6);
  fmt::print("layers {} ({} MoE), hidden {}, heads {}, vocabulary {}\n", c.layers, moe, c.hidden,
             c.heads, c.vocab);
  fmt::print("experts {} per MoE layer, top-{}, width {}, shared {}\n\n", c.experts, c.route.top_k,
             c.expert_width, c.shared_experts);
  for (const auto& [g, n] : groups)
    if (n > 0)
      fmt::print("  {:<20} {:>14}  {:5.1f} %\n", g, n,
                 100.0 * static_cast<double>(n) / static_cast<double>(total));
  for (const auto& [d, n] : dtypes) fmt::print("  {:<20} {:>14}\n", d, n);
}

}  // namespace
const Command kInspect{"inspect", "shapes, parameters by group, types of a model",
                       "sutor inspect model/", declare, run};
}  // namespace sutor
