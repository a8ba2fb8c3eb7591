// The adapters of a PESC layer behind its MLP. Keeps the products with Down, [T*K,A], and x where
// an adapter trains; never a [T,K,H] tensor: the masks are drawn again. Kernels:
// engine/cpu/adapter.cpp.
#include "engine/ops.h"

namespace sutor {

AdapterWeights AdapterBank::values() const {
  AdapterWeights w;
  for (size_t e = 0; e < down.size(); ++e) {
    w.down.push_back(down[e]->value);
    w.up.push_back(up[e]->value);
  }
  return w;
}

AdapterWeights AdapterBank::grads() const {
  AdapterWeights w;
  for (size_t e = 0; e < down.size(); ++e) {
    w.down.push_back(down[e]->trainable ? down[e]->grad : Tensor{});
    w.up.push_back(up[e]->trainable ? up[e]->grad : Tensor{});
  }
  return w;
}

bool AdapterBank::any_trainable() const {
  for (size_t e = 0; e < down.size(); ++e)
    if (down[e]->trainable || up[e]->trainable) return true;
  return false;
}

Var adapter_moe(const Var& x, const Routing& routing, const AdapterBank& bank, float scale,
                float dropout) {
  Tape& tape = *x.tape;
  Ctx& ctx = tape.ctx;
  check(!bank.down.empty() && bank.down.size() == bank.up.size(),
        "adapter: {} matrices down, {} up", bank.down.size(), bank.up.size());
  auto index = std::make_shared<MoeIndex>(
      sort_by_expert(routing.expert, static_cast<int>(bank.down.size())));
  Dropout drop = dropout_at(ctx, dropout, bank.down[0]->name);
  bool trains = bank.any_trainable();
  if (trains) tape.note_trainable();
  bool keep = tape.recording() && (trains || x.grad || routing.weight.grad);
  Tensor y = empty({x.value.rows(), x.value.cols()});
  Tensor low = keep ? empty({x.value.rows() * index->top_k, bank.down[0]->value.dim(0)}) : Tensor{};
  ctx.k->adapter_fwd(ctx, y, low, x.value, routing.weight.value, *index, bank.values(), scale,
                     drop);
  if (!keep) return tape.constant(y);
  Var anchor = trains ? tape.leaf(Tensor{}) : Var{};
  return tape.record(
      y, {anchor.grad, x.grad, routing.weight.grad},
      [&ctx, &bank, x = trains ? x.value : Tensor{}, weight = routing.weight.value, low, index,
       scale, drop, dx = x.grad, dw = routing.weight.grad](const Tensor& dy) {
        AdapterWeights grads = bank.grads();
        ctx.k->adapter_bwd(ctx, dx(), dw(), &grads, dy, x, weight, low, *index, bank.values(),
                           scale, drop);
      });
}

}  // namespace sutor
