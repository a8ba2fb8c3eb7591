#include "model/blocks.h"

namespace sutor {

Mlp::Mlp(Scope s, int64_t hidden, int64_t width, const MlpOptions& opt) {
  auto linear = [&](const char* name, int64_t out, int64_t in, Param*& w, Param*& b) {
    w = &(s / name).param("weight", {out, in});
    if (opt.bias) b = &(s / name).param("bias", {out});
  };
  linear(opt.gate, width, hidden, gate, gate_bias);
  linear(opt.up, width, hidden, up, up_bias);
  linear(opt.down, hidden, width, down, down_bias);
}

Var Mlp::operator()(const Var& x) const {
  return linear(swiglu(linear(x, *gate, gate_bias), linear(x, *up, up_bias)), *down, down_bias);
}

MoeBlock::MoeBlock(const Config& config, Scope s, int layer, const MoeOptions& opt)
    : c_(config), layer_(layer) {
  router_ = &s.param("gate.weight", {c_.experts, c_.hidden});
  if (opt.select_bias) {
    select_bias_ = &s.param(opt.select_bias, {c_.experts});
    select_bias_->buffer = true;
    if (select_bias_->value.dtype != DType::F32)
      select_bias_->value = cast(select_bias_->value, DType::F32);
  }
  for (int e = 0; e < c_.experts; ++e) {
    Mlp m(s / "experts" / e, c_.hidden, c_.expert_width, opt.expert);
    bank_.gate.push_back(m.gate);
    bank_.up.push_back(m.up);
    bank_.down.push_back(m.down);
  }
  if (!opt.shared || c_.shared_width == 0) return;
  shared_.emplace(s / opt.shared, c_.hidden, c_.shared_width);
  if (opt.shared_gate) shared_gate_ = &s.param("shared_expert_gate.weight", {1, c_.hidden});
}

Routing MoeBlock::route(const Var& x, Trace& trace) const {
  Routing r =
      moe_route(linear_exact(x, *router_), select_bias_ ? select_bias_->value : Tensor{}, c_.route);
  trace.routing(layer_, r);
  return r;
}

Var MoeBlock::balance(const Routing& r, const Sequences& sequences) const {
  if (c_.aux == AuxLoss::kSwitch) return moe_load(r, sequences.real);
  std::vector<int32_t> rows = sequences.rows;
  if (c_.aux == AuxLoss::kBatch) rows = {rows.front(), rows.back()};
  return moe_balance_loss(r, rows, c_.route.score == RouteScore::kSigmoid);
}

Var MoeBlock::operator()(const Var& x, const Sequences& sequences, Trace& trace,
                         std::vector<Var>* aux) const {
  Routing r = route(x, trace);
  if (aux) aux->push_back(balance(r, sequences));
  Var y = moe_ffn(x, r, bank_);
  if (!shared_) return y;
  Var always = (*shared_)(x);
  if (shared_gate_) always = gated(always, linear(x, *shared_gate_));
  return add(y, always);
}

}  // namespace sutor
