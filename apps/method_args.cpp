#include "apps/method_args.h"

#include "model/esft.h"

namespace sutor {

void declare_method(Args& a) {
  a.choice("method", "what trains: the selected experts, everything, or LoRA factors", "esft",
           {"esft", "full", "lora"});
  a.string("experts", "expert_cfg.json of sutor select (esft)");
  a.integer("rank", "LoRA rank", 8, 1, 1 << 16);
  a.real("alpha", "LoRA alpha (scale = alpha / rank)", 16, 0, 1e6);
}

LoraOptions choose_what_trains(const Args& a, Model& model, std::string& expert_cfg) {
  const std::string& method = a.str("method");
  a.no_effect_unless(method == "esft", "experts", "only --method esft selects experts");
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
    ExpertConfig c = read_expert_config(file);
    check_expert_config(c, model.config.moe_layers(), model.config.experts, file);
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
