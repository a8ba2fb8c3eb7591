#pragma once
// The feed-forward block of a PESC model (arXiv 2401.02731, camelidae/modeling_camelidae.py): one
// MLP for every token, behind it the experts, small adapters, of which a router chooses by the
// MLP's input x[T,H]:
//   F = Mlp(x)    y = F + s sum_k w_k Up_k gelu(Down_k F)    w = softmax over the top k of Router x
// In training each expert sees F through dropout of its own. Names, below the MLP's scope:
// moe_adapter.router, moe_adapter.experts.expert_N.adapter_{down [A,H], up [H,A]}.

#include "model/blocks.h"

namespace sutor {

// Sizes, scaling, dropout and routing: Config's adapter_*, experts and route.
class AdapterMoe {
 public:
  // `prefix` of an expert's number in its name.
  AdapterMoe(const Config& config, Scope mlp, int layer, const MlpOptions& opt,
             const std::string& prefix);
  Routing route(const Var& x, Trace& trace) const { return router_(x, trace); }
  Var operator()(const Var& x, const Sequences& sequences, Trace& trace,
                 std::vector<Var>* aux) const;

 private:
  const Config& c_;
  Mlp mlp_;
  Router router_;
  AdapterBank bank_;
};

// What makes a config.json one of these, whatever its model_type: the authors' classes write those
// of their dense models, "llama" and "mistral".
bool has_adapter_keys(const Json& config);

// The most of a vector that dropout takes away: in config.json as in the options, so that what one
// command writes the next one takes.
constexpr double kMaxDropout = 0.99;

// Values of keys that are absent: the authors' configuration classes differ.
struct AdapterDefaults {
  int64_t experts = 8, top_k = 1, dim = 64;
  double scaling = 0.25, dropout = 0.1;
  bool balance = true;  // output_router_logits
};
// adapter_dim, num_experts, topk, moe_scaling, adapter_dropout, output_router_logits,
// router_aux_loss_coef, moe_dtype (a name that must be one; the weights keep the file's type).
void read_adapters(const Reader& r, Config& c, const AdapterDefaults& defaults = {});

}  // namespace sutor
