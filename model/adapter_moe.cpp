#include "model/adapter_moe.h"

namespace sutor {

AdapterMoe::AdapterMoe(const Config& config, Scope mlp, int layer, const MlpOptions& opt,
                       const std::string& prefix)
    : c_(config),
      mlp_(mlp, config.hidden, config.intermediate, opt),
      router_(config, mlp / "moe_adapter", layer, "router.weight") {
  for (int e = 0; e < c_.experts; ++e) {
    Scope s = mlp / "moe_adapter" / "experts" / (prefix + std::to_string(e));
    bank_.down.push_back(&s.param("adapter_down.weight", {c_.adapter_dim, c_.hidden}));
    bank_.up.push_back(&s.param("adapter_up.weight", {c_.hidden, c_.adapter_dim}));
  }
}

Var AdapterMoe::operator()(const Var& x, const Sequences& sequences, Trace& trace,
                           std::vector<Var>* aux) const {
  Routing r = route(x, trace);
  router_.balance(r, sequences, aux);
  return adapter_moe(mlp_(x), r, bank_, static_cast<float>(c_.adapter_scaling),
                     static_cast<float>(c_.adapter_dropout));
}

bool has_adapter_keys(const Json& config) {
  for (const char* key : {"adapter_dim", "moe_scaling", "moe_dtype"})
    if (Reader{config, ""}.has(key)) return true;
  return false;
}

void read_adapters(const Reader& r, Config& c, const AdapterDefaults& defaults) {
  c.experts = r.positive("num_experts", defaults.experts);
  c.route.top_k = static_cast<int>(r.positive("topk", defaults.top_k));
  check(c.route.top_k <= c.experts, "{}: topk is {}, the layer has {} experts (num_experts)",
        r.where, c.route.top_k, c.experts);
  // Softmax over all, of which the chosen are divided by their sum: softmax over the chosen.
  c.route.normalize = true;
  c.sparse.assign(c.layers, true);
  c.adapter_dim = c.expert_width = r.positive("adapter_dim", defaults.dim);
  c.adapter_scaling = r.number("moe_scaling", defaults.scaling);
  c.adapter_dropout = r.value("adapter_dropout", defaults.dropout);
  check(c.adapter_dropout >= 0 && c.adapter_dropout <= kMaxDropout,
        "{}: adapter_dropout is {}, must be 0 .. {}", r.where, c.adapter_dropout, kMaxDropout);
  r.choice("moe_dtype", "bfloat16", {"bfloat16", "float16", "float32"});
  read_switch_loss(r, c, 0.01);
  c.aux_asked = r.value("output_router_logits", defaults.balance) && c.aux_alpha > 0;
}

}  // namespace sutor
