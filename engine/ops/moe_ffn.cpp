// The routed experts of a layer: y = sum_k weight_k W2(silu(W1 x) * W3 x). Keeps the
// pre-activations gate, up [T*K,I], and x where an expert trains. Kernels: engine/cpu/moe_ffn.cpp,
// engine/cpu/moe_ffn_bwd.cpp. Experts with LoRA: engine/ops/moe_ffn_lora.cpp; experts that ranks
// share: engine/ops/ep_exchange.cpp.
#include "engine/expert_ranks.h"
#include "engine/ops.h"

namespace sutor {

ExpertWeights ExpertBank::values() const {
  ExpertWeights w;
  for (size_t e = 0; e < gate.size(); ++e) {
    w.gate.push_back(gate[e]->value);
    w.up.push_back(up[e]->value);
    w.down.push_back(down[e]->value);
  }
  return w;
}

ExpertWeights ExpertBank::grads(int source) const {
  auto grad = [&](const Param* p) {
    if (!p->trainable || p->remote) return Tensor{};
    if (source == 0) return p->grad;
    return wrap(p->grad.storage, p->grad.f32() + source * ranks->slab->stride, p->grad.shape,
                DType::F32);
  };
  ExpertWeights w;
  for (size_t e = 0; e < gate.size(); ++e) {
    w.gate.push_back(grad(gate[e]));
    w.up.push_back(grad(up[e]));
    w.down.push_back(grad(down[e]));
  }
  return w;
}

bool ExpertBank::any_trainable() const {
  for (size_t e = 0; e < gate.size(); ++e)
    if (gate[e]->trainable || up[e]->trainable || down[e]->trainable) return true;
  return false;
}

bool ExpertBank::any_lora() const {
  for (size_t e = 0; e < gate.size(); ++e)
    if (gate[e]->lora || up[e]->lora || down[e]->lora) return true;
  return false;
}

Var moe_ffn(const Var& x, const Routing& routing, const ExpertBank& bank) {
  Tape& tape = *x.tape;
  Ctx& ctx = tape.ctx;
  auto index = std::make_shared<MoeIndex>(
      sort_by_expert(routing.expert, static_cast<int>(bank.gate.size())));
  if (bank.any_lora()) return moe_ffn_lora(x, routing, bank, index);
  int64_t T = x.value.rows(), I = bank.gate[0]->value.dim(0), pairs = T * index->top_k;
  bool trains = bank.any_trainable();
  if (trains) tape.note_trainable();
  bool keep = tape.recording() && (trains || x.grad || routing.weight.grad);
  Tensor y = empty({T, x.value.cols()});
  Tensor gate, up;
  if (keep) gate = empty({pairs, I}, kept_type(ctx.compute)), up = empty_like(gate);
  ctx.k->moe_ffn_fwd(ctx, y, gate, up, x.value, routing.weight.value, *index, bank.values());
  if (!keep) return tape.constant(y);
  Var anchor = trains ? tape.leaf(Tensor{}) : Var{};
  return tape.record(y, {anchor.grad, x.grad, routing.weight.grad},
                     [&ctx, x = trains ? x.value : Tensor{}, weight = routing.weight.value, gate,
                      up, index, &bank, dx = x.grad, dw = routing.weight.grad](const Tensor& dy) {
                       ExpertWeights grads = bank.grads();
                       ctx.k->moe_ffn_bwd(ctx, dx(), dw(), &grads, dy, x, weight, gate, up, *index,
                                          bank.values());
                     });
}

}  // namespace sutor
