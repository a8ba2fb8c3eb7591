// The routed experts of a layer: y = sum_k weight_k W2(silu(W1 x) * W3 x). Keeps the
// pre-activations gate, up [T*K,I], and x where an expert trains. Kernels: engine/cpu/moe_ffn.cpp,
// engine/cpu/moe_ffn_bwd.cpp. Experts with LoRA go one by one through plain ops.
#include "engine/dry_run.h"
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

ExpertWeights ExpertBank::grads() const {
  ExpertWeights w;
  for (size_t e = 0; e < gate.size(); ++e) {
    w.gate.push_back(gate[e]->trainable ? gate[e]->grad : Tensor{});
    w.up.push_back(up[e]->trainable ? up[e]->grad : Tensor{});
    w.down.push_back(down[e]->trainable ? down[e]->grad : Tensor{});
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

namespace {

// Expert by expert, each row's result weighted, then summed per token in the order of k.
Var moe_ffn_plain(const Var& x, const Routing& routing, const ExpertBank& bank,
                  const MoeIndex& index) {
  Tape& tape = *x.tape;
  Ctx& ctx = tape.ctx;
  int64_t T = x.value.rows(), H = x.value.cols(), K = index.top_k;
  Tensor sorted = empty({T * K, H});  // expert outputs in expert order
  std::vector<std::pair<Var, int64_t>> parts;
  for (size_t e = 0; e + 1 < index.offset.size(); ++e) {
    int64_t lo = index.offset[e], n = index.offset[e + 1] - lo;
    if (n == 0) continue;
    Tensor tokens = empty({n}, DType::I32);
    for (int64_t i = 0; i < n; ++i) tokens.i32()[i] = static_cast<int32_t>(index.pair[lo + i] / K);
    Var xe = gather(x, tokens);
    Var y = linear(swiglu(linear(xe, *bank.gate[e]), linear(xe, *bank.up[e])), *bank.down[e]);
    copy_into(sorted.slice(lo, lo + n), y.value);
    parts.emplace_back(y, lo);
  }
  const float* w = routing.weight.value.f32();
  Tensor y = zeros({T, H});
  for (int64_t p = 0; p < T * K && !dry_run(); ++p) {
    const float* row = sorted.row(index.where[p]);
    float* out = y.row(p / K);
    for (int64_t h = 0; h < H; ++h) out[h] += w[p] * row[h];
  }
  Var anchor = tape.recording() && tape.saw_trainable() ? tape.leaf(Tensor{}) : Var{};
  return tape.record(y, {anchor.grad, x.grad, routing.weight.grad},
                     [&ctx, sorted, parts, index, K, H, T, weight = routing.weight.value,
                      dw = routing.weight.grad](const Tensor& dy) {
                       Tensor dweight = dw();
                       Tensor d = empty({T * K, H});
                       for (int64_t p = 0; p < T * K && !dry_run(); ++p) {
                         const float* g = dy.row(p / K);
                         const float* o = sorted.row(index.where[p]);
                         float* out = d.row(index.where[p]);
                         double dot = 0;
                         for (int64_t h = 0; h < H; ++h) {
                           out[h] = weight.f32()[p] * g[h];
                           dot += static_cast<double>(g[h]) * o[h];
                         }
                         if (dweight) dweight.f32()[p] += static_cast<float>(dot);
                       }
                       for (const auto& [part, lo] : parts)
                         if (part.grad)
                           ctx.k->accumulate(ctx, part.grad(), d.slice(lo, lo + part.value.rows()),
                                             1.0f);
                     });
}

}  // namespace

Var moe_ffn(const Var& x, const Routing& routing, const ExpertBank& bank) {
  Tape& tape = *x.tape;
  Ctx& ctx = tape.ctx;
  auto index = std::make_shared<MoeIndex>(
      sort_by_expert(routing.expert, static_cast<int>(bank.gate.size())));
  if (bank.any_lora()) return moe_ffn_plain(x, routing, bank, *index);
  int64_t T = x.value.rows(), I = bank.gate[0]->value.dim(0), pairs = T * index->top_k;
  bool trains = bank.any_trainable();
  if (trains) tape.note_trainable();
  bool keep = tape.recording() && (trains || x.grad || routing.weight.grad);
  Tensor y = empty({T, x.value.cols()});
  Tensor gate = keep ? empty({pairs, I}) : Tensor{}, up = keep ? empty({pairs, I}) : Tensor{};
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
