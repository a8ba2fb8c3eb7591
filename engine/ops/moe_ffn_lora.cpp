// moe_ffn where experts carry LoRA: every linear is y = x W^T + s (drop(x) A^T) B^T. Experts run
// side by side, each in one thread over the plain kernels, so the thread count changes no bit.
// Keeps x, the pre-activations and the [T*K, r] products with A; never a [T*K, H] tensor. As in the
// fused kernel the gate weight goes to the small side: dB, dA and dW of down take weight * a, so
// that z = dL/da before the weight is there for dweight = <z, a>. The mask of an expert's dropout
// is that of its weight's name, for its own rows in their order. Test: tests/lora.cpp.
#include "engine/dry_run.h"
#include "engine/ops.h"
#include "engine/parallel.h"

namespace sutor {
namespace {

Tensor grad_of(const Param& p) { return p.trainable ? p.grad : Tensor{}; }

void forward(Ctx& ctx, const Param& w, Tensor y, Tensor low, const Tensor& x) {
  if (!w.lora) return ctx.k->linear_fwd(ctx, y, x, w.value, {});
  const Lora& l = *w.lora;
  ctx.k->lora_linear_fwd(ctx, y, low, x, w.value, {}, l.a->value, l.b->value, l.scale,
                         dropout_at(ctx, l.dropout, w.name));
}

void backward(Ctx& ctx, const Param& w, Tensor dx, const Tensor& dy, const Tensor& x,
              const Tensor& low) {
  if (!w.lora) return ctx.k->linear_bwd(ctx, dx, grad_of(w), {}, dy, x, w.value);
  const Lora& l = *w.lora;
  ctx.k->lora_linear_bwd(ctx, dx, grad_of(w), {}, grad_of(*l.a), grad_of(*l.b), dy, x, w.value, low,
                         l.a->value, l.b->value, l.scale, dropout_at(ctx, l.dropout, w.name));
}

bool trains(const Param& p) {
  return p.trainable || (p.lora && (p.lora->a->trainable || p.lora->b->trainable));
}

int64_t rank_of(const std::vector<Param*>& params) {
  int64_t r = 1;
  for (const Param* p : params)
    if (p->lora) r = std::max(r, p->lora->a->value.dim(0));
  return r;
}

// Rows of width r of a [T*K, R] table: expert e's own rank may be below R. No table: nothing is
// kept, fresh rows.
Tensor low_rows(const Tensor& table, int64_t lo, int64_t n, const Param& p) {
  if (!p.lora) return {};
  if (!table) return empty({n, p.lora->a->value.dim(0)});
  return table.slice(lo, lo + n).columns(0, p.lora->a->value.dim(0));
}

struct Kept {  // [T*K, .] in expert order
  Tensor gate, up, low_gate, low_up, low_down;
};

// weight[p] of the pairs at sorted positions lo..lo+n, times rows of m.
void weigh(const Tensor& m, const Tensor& weight, const MoeIndex& index, int64_t lo) {
  if (dry_run()) return;
  for (int64_t i = 0; i < m.rows(); ++i)
    for (int64_t j = 0; j < m.cols(); ++j) m.row(i)[j] *= weight.f32()[index.pair[lo + i]];
}

template <class F>
void for_experts(const MoeIndex& index, F&& fn) {
  int64_t experts = static_cast<int64_t>(index.offset.size()) - 1;
  int64_t grain = dry_run() ? experts : 1;  // a dry run counts what its own thread makes
  parallel_for(experts, grain, [&](int64_t from, int64_t to) {
    for (int64_t e = from; e < to; ++e) {
      int64_t lo = index.offset[e], n = index.offset[e + 1] - lo;
      if (n > 0) fn(e, lo, n);
    }
  });
}

Tensor tokens_of(const MoeIndex& index, int64_t lo, int64_t n) {
  Tensor t = empty({n}, DType::I32);
  for (int64_t i = 0; i < n; ++i) t.i32()[i] = index.pair[lo + i] / index.top_k;
  return t;
}

// y[t] (+)= sum over k, in this order, of weight * rows[where]; weight empty: 1.
void combine(Tensor y, const Tensor& rows, const Tensor& weight, const MoeIndex& index) {
  int64_t K = index.top_k;
  if (dry_run()) return;
  parallel_for(y.rows(), 8, [&](int64_t from, int64_t to) {
    for (int64_t p = from * K; p < to * K; ++p) {
      const float* row = rows.row(index.where[p]);
      float* out = y.row(p / K);
      float w = weight ? weight.f32()[p] : 1.0f;
      for (int64_t h = 0; h < y.cols(); ++h) out[h] += w * row[h];
    }
  });
}

}  // namespace

Var moe_ffn_lora(const Var& x, const Routing& routing, const ExpertBank& bank,
                 std::shared_ptr<MoeIndex> index) {
  Tape& tape = *x.tape;
  Ctx& ctx = tape.ctx;
  int64_t T = x.value.rows(), H = x.value.cols(), pairs = T * index->top_k,
          I = bank.gate[0]->value.dim(0);
  bool any = false;
  for (size_t e = 0; e < bank.gate.size(); ++e)
    any |= trains(*bank.gate[e]) || trains(*bank.up[e]) || trains(*bank.down[e]);
  if (any) tape.note_trainable();
  bool keep = tape.recording() && (any || x.grad || routing.weight.grad);
  Kept kept;
  if (keep)
    kept = {empty({pairs, I}), empty({pairs, I}), empty({pairs, rank_of(bank.gate)}),
            empty({pairs, rank_of(bank.up)}), empty({pairs, rank_of(bank.down)})};
  Tensor rows = empty({pairs, H});
  for_experts(*index, [&](int64_t e, int64_t lo, int64_t n) {
    const Param &w1 = *bank.gate[e], &w3 = *bank.up[e], &w2 = *bank.down[e];
    Tensor xe = empty({n, H}), act = empty({n, I});
    Tensor g = keep ? kept.gate.slice(lo, lo + n) : empty({n, I}),
           u = keep ? kept.up.slice(lo, lo + n) : empty({n, I});
    ctx.k->gather_fwd(ctx, xe, x.value, tokens_of(*index, lo, n));
    forward(ctx, w1, g, low_rows(kept.low_gate, lo, n, w1), xe);
    forward(ctx, w3, u, low_rows(kept.low_up, lo, n, w3), xe);
    ctx.k->swiglu_fwd(ctx, act, g, u);
    forward(ctx, w2, rows.slice(lo, lo + n), low_rows(kept.low_down, lo, n, w2), act);
  });
  Tensor y = zeros({T, H});
  combine(y, rows, routing.weight.value, *index);
  if (!keep) return tape.constant(y);
  Var anchor = any ? tape.leaf(Tensor{}) : Var{};
  return tape.record(
      y, {anchor.grad, x.grad, routing.weight.grad},
      [&ctx, &bank, index, kept, x = x.value, weight = routing.weight.value, dx = x.grad,
       dw = routing.weight.grad](const Tensor& dy) {
        int64_t H = x.cols(), I = kept.gate.cols();
        Tensor dxs = dx ? zeros({kept.gate.rows(), H}) : Tensor{}, dweight = dw();
        for_experts(*index, [&](int64_t e, int64_t lo, int64_t n) {
          const Param &w1 = *bank.gate[e], &w3 = *bank.up[e], &w2 = *bank.down[e];
          Tensor g = kept.gate.slice(lo, lo + n), u = kept.up.slice(lo, lo + n);
          Tensor tokens = tokens_of(*index, lo, n), xe = empty({n, H}), dye = empty({n, H});
          Tensor act = empty({n, I}), z = zeros({n, I}), dg = zeros({n, I}), du = zeros({n, I});
          ctx.k->gather_fwd(ctx, xe, x, tokens);
          ctx.k->gather_fwd(ctx, dye, dy, tokens);
          ctx.k->swiglu_fwd(ctx, act, g, u);
          Tensor weighted = clone(act), low = low_rows(kept.low_down, lo, n, w2);
          if (low) weigh(low = clone(low), weight, *index, lo);
          weigh(weighted, weight, *index, lo);
          backward(ctx, w2, z, dye, weighted, low);
          if (dweight && !dry_run())  // every pair belongs to one expert: no two threads meet
            for (int64_t i = 0; i < n; ++i) {
              float dot = 0;
              for (int64_t j = 0; j < I; ++j) dot += z.row(i)[j] * act.row(i)[j];
              dweight.f32()[index->pair[lo + i]] += dot;
            }
          weigh(z, weight, *index, lo);
          ctx.k->swiglu_bwd(ctx, dg, du, z, g, u);
          Tensor dxe = dxs ? dxs.slice(lo, lo + n) : Tensor{};
          backward(ctx, w1, dxe, dg, xe, low_rows(kept.low_gate, lo, n, w1));
          backward(ctx, w3, dxe, du, xe, low_rows(kept.low_up, lo, n, w3));
        });
        if (dx) combine(dx(), dxs, {}, *index);
      });
}

}  // namespace sutor
