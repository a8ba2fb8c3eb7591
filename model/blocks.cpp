#include "model/blocks.h"

#include "engine/expert_ranks.h"

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

Router::Router(const Config& config, Scope s, int layer, const char* name, const char* select_bias)
    : c_(config), layer_(layer), weight_(&s.param(name, {config.experts, config.hidden})) {
  if (!select_bias) return;
  select_bias_ = &s.param(select_bias, {c_.experts});
  select_bias_->buffer = true;
  if (select_bias_->value.dtype != DType::F32)
    select_bias_->value = cast(select_bias_->value, DType::F32);
}

Routing Router::operator()(const Var& x, Trace& trace) const {
  Routing r =
      moe_route(linear_exact(x, *weight_), select_bias_ ? select_bias_->value : Tensor{}, c_.route);
  trace.routing(layer_, r);
  return r;
}

void Router::balance(const Routing& r, const Sequences& sequences, std::vector<Var>* aux) const {
  if (aux == nullptr) return;
  if (c_.aux == AuxLoss::kSwitch) return aux->push_back(moe_load(r, sequences.real));
  std::vector<int32_t> rows = sequences.rows;
  if (c_.aux == AuxLoss::kBatch) rows = {rows.front(), rows.back()};
  aux->push_back(moe_balance_loss(r, rows, c_.route.score == RouteScore::kSigmoid));
}

MoeBlock::MoeBlock(const Config& c, Scope s, int layer, const MoeOptions& opt)
    : router_(c, s, layer, "gate.weight", opt.select_bias) {
  for (int e = 0; e < c.experts; ++e) {
    Mlp m(s / "experts" / e, c.hidden, c.expert_width, opt.expert);
    bank_.gate.push_back(m.gate);
    bank_.up.push_back(m.up);
    bank_.down.push_back(m.down);
  }
  if (!opt.shared || c.shared_width == 0) return;
  shared_.emplace(s / opt.shared, c.hidden, c.shared_width);
  if (opt.shared_gate) shared_gate_ = &s.param("shared_expert_gate.weight", {1, c.hidden});
}

Var MoeBlock::operator()(const Var& x, const Sequences& sequences, Trace& trace,
                         std::vector<Var>* aux) const {
  Routing r = route(x, trace);
  router_.balance(r, sequences, aux);
  MoeFfnBegun begun = moe_ffn_begin(x, r, bank_);
  if (!shared_) return moe_ffn_end(begun);
  Var always = (*shared_)(x);
  if (shared_gate_) always = gated(always, linear(x, *shared_gate_));
  return add(moe_ffn_end(begun), always);
}

void MoeBlock::share(const ExpertRanks& ranks) {
  check(ranks.owner.size() == bank_.gate.size(), "{} experts, owners of {}", bank_.gate.size(),
        ranks.owner.size());
  for (size_t e = 0; e < bank_.gate.size(); ++e)
    for (Param* p : {bank_.gate[e], bank_.up[e], bank_.down[e]}) {
      p->owner = ranks.owner[e];
      p->remote = ranks.owner[e] != ranks.comm.rank();
    }
  bank_.ranks = std::make_shared<const ExpertRanks>(ranks);
}

}  // namespace sutor
