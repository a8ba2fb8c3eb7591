#include "apps/method_args.h"

#include "model/esft.h"

namespace sutor {
namespace {

ExpertConfig experts_of(const Args& a, const std::string& file) {
  return read_expert_config(file, a.on("one-indexed"));
}

bool router_trains(const Args& a) {
  if (a.str("method") != "esft") return a.str("method") == "full";
  return !a.str("experts").empty() && experts_of(a, a.str("experts")).non_expert_modules;
}

}  // namespace

void declare_balance_loss(Args& a) {
  a.real(
      "aux-loss",
      "weight of the router's balance loss; 0: none (default: config.json's own where the router "
      "trains, else 0)",
      0, 0, 10);
  a.derive("aux-loss", [](const Args& x) -> std::string {
    try {
      Config c = read_config(x.str("MODEL"));
      return c.aux_asked && router_trains(x) ? fmt::format("{}", c.aux_alpha) : "0";
    } catch (const Error&) {
      return "0";  // whoever reads the file next says it better
    }
  });
}

void check_balance_loss(const Args& a, Model& model) {
  const Config& c = model.config;
  bool none = c.aux == AuxLoss::kNone || c.moe_layers().empty();
  double alpha = a.real("aux-loss");
  check(alpha == 0 || !none, "--aux-loss {}: a {} model has no router to balance (allowed: 0)",
        alpha, c.model_type);
  if (a.given("aux-loss") || a.on("quiet") || none || !c.aux_asked) return;
  if (alpha > 0)
    note("balance loss {} of the router, as config.json asks (--aux-loss 0: none)\n", alpha);
  else
    note("balance loss off: the router is frozen (--aux-loss {} turns it on)\n", c.aux_alpha);
}

void declare_method(Args& a) {
  a.choice("method", "what trains: the selected experts, everything, or LoRA factors", "esft",
           {"esft", "full", "lora"});
  a.string("experts", "expert_cfg.json of sutor select (esft)");
  a.flag("one-indexed", "the expert_cfg.json counts layers from 1");
  a.integer("rank", "LoRA rank", 8, 1, 1 << 16);
  a.real("alpha", "LoRA alpha (scale = alpha / rank)", 16, 0, 1e6);
}

LoraOptions choose_what_trains(const Args& a, Model& model, std::string& expert_cfg) {
  const std::string& method = a.str("method");
  a.no_effect_unless(method == "esft", "experts", "only --method esft selects experts");
  a.no_effect_unless(method == "esft", "one-indexed",
                     "only --method esft reads an expert_cfg.json");
  for (const char* o : {"rank", "alpha"})
    a.no_effect_unless(method == "lora", o, "only --method lora has it");
  LoraOptions lora{a.num("rank"), a.real("alpha"), {}};
  for (const Param& p : model.params.all())
    check(
        !p.lora,
        "--adapter: {} carries a LoRA, which --method {} would neither train nor write: fold it in "
        "first (sutor merge)",
        p.name, method);
  check(model.folded.empty(),
        "--adapter: {} carries a folded LoRA, which --method {} would not write: fold it in for "
        "good first (sutor merge)",
        model.folded.empty() ? "" : model.folded.front().param->name, method);
  model.params.freeze_all();
  if (method == "full") {
    model.params.train("*");
  } else if (method == "lora") {
    add_lora(model, lora, static_cast<uint64_t>(a.num("seed")));
  } else {
    check(!model.config.moe_layers().empty(),
          "{}: a dense {} model has no experts for --method esft to select (allowed: full, lora)",
          model.config.where, model.config.model_type);
    const std::string& file = a.required("experts");
    ExpertConfig c = experts_of(a, file);
    check_expert_config(c, model.config.moe_layers(), model.config.experts, file, true);
    check(!c.shared_experts || model.config.shared_experts > 0,
          "{}: shared_experts is true, the model has none", file);
    for (const Param& p : model.params.all())
      if (trains(c, p.name)) model.params.train(p.name);
    check(!model.params.trainable().empty(), "{}: selects nothing", file);
    expert_cfg = to_json(c);
  }
  return lora;
}

}  // namespace sutor
