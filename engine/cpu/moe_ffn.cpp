// moe_ffn forward: y[t] = sum_k weight[t,k] W2_e (silu(W1_e x[t]) * W3_e x[t]). Regions: pack
// tokens by expert; gate and up with SwiGLU in the epilogue, which writes the packed operand of the
// next product; down; combine in fixed order. Experts with at most kDecodeTokens tokens take dot
// products instead: they are bound by reading the weights once. Reference: engine/ref/moe_ffn.h;
// test: tests/kernels/moe_ffn.cpp.

#include "engine/cpu/moe_plan.h"

namespace sutor::cpu {
namespace {

struct Forward {
  const MicroKernels& mk;
  MoePlan plan;
  const Tensor &gate, &up, &x;
  const ExpertWeights& w;
  Panels xp, ap;     // tokens by expert: x [P = H], activations [P = I]
  Tensor act, rows;  // [T*K, I] of the small experts; [T*K, H] outputs before the combine

  bool small(int64_t e) const { return plan.count(e) <= kDecodeTokens; }

  void gate_up(const MoeUnit& u) {
    if (small(u.expert)) return gate_up_small(u);
    const Tensor &w1 = w.gate[u.expert], &w3 = w.up[u.expert];
    int64_t base = plan.first(u.expert), n = plan.count(u.expert), steps = xp.steps;
    LinePanels p1 = line_panels(mk, 0, w1, u.first, u.count, panels_of(n)),
               p3 = line_panels(mk, 1, w3, u.first, u.count, panels_of(n));
    auto lines = [&](int64_t i) { return line_width(u.first + i, plan.inter); };
    sweep(
        u.count, panels_of(n), steps, 2,
        [&](int64_t i, int64_t t, int64_t s0, int64_t run, float* c, bool more) {
          Tiles tokens = tiles(xp.at(plan.panel[u.expert] + t), steps, line_width(t, n), s0);
          mk.block(c, p1.at(i, t, lines(i), s0), tokens, run, more);
          mk.block(c + 1024, p3.at(i, t, lines(i), s0), tokens, run, more);
        },
        [&](int64_t i, int64_t t, const float* c) {
          const float *g = c, *v = c + 1024;
          int64_t line = (u.first + i) * 32, cols = line_width(t, n);
          keep(gate, base + t * 32, line, g, lines(i), cols);
          keep(up, base + t * 32, line, v, lines(i), cols);
          alignas(64) float a[1024];
          mk.swiglu(a, g, v, 1024);
          int64_t s = line / mk.step;  // 32 rows of a^T are one or two steps of the next product
          mk.pack_across(ap.at(plan.panel[u.expert] + t) + s * 1024, {a, DType::F32, 32, nullptr},
                         0, 32, 32, 0, std::min<int64_t>(32 / mk.step, ap.steps - s), ap.steps,
                         true);
        },
        p1.as_they_lie);
  }

  // Pre-activations of a block: its rows are lines, its columns tokens.
  void keep(const Tensor& kept, int64_t row, int64_t line, const float* c, int64_t lines,
            int64_t tokens) const {
    if (!kept) return;
    if (kept.dtype == DType::F32)
      return mk.store_t(kept.row(row) + line, kept.ld, c, lines, tokens, nullptr);
    alignas(64) float by_token[1024];
    mk.store_t(by_token, 32, c, 32, 32, nullptr);
    for (int64_t t = 0; t < tokens; ++t) keep_row(kept, row + t, line, by_token + t * 32, lines);
  }

  void gate_up_small(const MoeUnit& u) {
    int64_t n = plan.count(u.expert), base = plan.first(u.expert), h = plan.hidden;
    auto* xs = reinterpret_cast<float*>(scratch(2, n * h * 4));
    for (int64_t j = 0; j < n; ++j)
      for (int64_t i = 0; i < h; ++i) {
        float f = x.row(plan.token[base + j])[i];
        xs[j * h + i] = mk.rounds ? float(bf16(f)) : f;
      }
    const Tensor &w1 = w.gate[u.expert], &w3 = w.up[u.expert];
    int64_t end = std::min<int64_t>(plan.inter, (u.first + u.count) * 32);
    float g[kDecodeTokens][4], v[kDecodeTokens][4], a[4];
    in_quarters(u.first * 32, end, [&](int64_t r, int64_t m, int64_t apart) {
      dot_rows(mk, g[0], 4, w1, r, m, apart, xs, h, n);
      dot_rows(mk, v[0], 4, w3, r, m, apart, xs, h, n);
      for (int64_t j = 0; j < n; ++j) {
        mk.swiglu(a, g[j], v[j], m);
        for (int64_t i = 0; i < m; ++i) {
          const int64_t at = r + i * apart;
          act.row(base + j)[at] = mk.rounds ? float(bf16(a[i])) : a[i];
          if (gate) keep_row(gate, base + j, at, &g[j][i], 1);
          if (up) keep_row(up, base + j, at, &v[j][i], 1);
        }
      }
    });
  }

  void down(const MoeUnit& u) {
    int64_t n = plan.count(u.expert), base = plan.first(u.expert);
    const Tensor& w2 = w.down[u.expert];
    if (small(u.expert)) {
      int64_t end = std::min<int64_t>(plan.hidden, (u.first + u.count) * 32);
      float out[kDecodeTokens][4];
      in_quarters(u.first * 32, end, [&](int64_t r, int64_t m, int64_t apart) {
        dot_rows(mk, out[0], 4, w2, r, m, apart, act.row(base), act.ld, n);
        for (int64_t j = 0; j < n; ++j)
          for (int64_t i = 0; i < m; ++i) rows.row(base + j)[r + i * apart] = out[j][i];
      });
      return;
    }
    LinePanels p2 = line_panels(mk, 0, w2, u.first, u.count, panels_of(n));
    int64_t steps = ap.steps;
    auto lines = [&](int64_t i) { return line_width(u.first + i, plan.hidden); };
    sweep(
        u.count, panels_of(n), steps, 1,
        [&](int64_t i, int64_t t, int64_t s0, int64_t run, float* c, bool more) {
          mk.block(c, p2.at(i, t, lines(i), s0),
                   tiles(ap.at(plan.panel[u.expert] + t), steps, line_width(t, n), s0), run, more);
        },
        [&](int64_t i, int64_t t, const float* c) {
          mk.store_t(rows.row(base + t * 32) + (u.first + i) * 32, rows.ld, c, lines(i),
                     line_width(t, n), nullptr);
        },
        p2.as_they_lie);
  }
};

}  // namespace

void moe_ffn_fwd(Ctx& ctx, Tensor y, Tensor gate, Tensor up, Tensor x, Tensor weight,
                 const MoeIndex& index, const ExpertWeights& w) {
  const MicroKernels& mk = micro_kernels(ctx.compute);
  Forward f{mk, MoePlan(x, index, w), gate, up, x, w, {}, {}, {}, {}};
  const MoePlan& plan = f.plan;
  bool any_small = false, any_large = false;
  for (int64_t e = 0; e < plan.experts; ++e)
    if (plan.count(e) > 0) (f.small(e) ? any_small : any_large) = true;
  if (any_large) {
    f.xp = make_panels(mk, plan.panels(), plan.hidden);
    f.ap = make_panels(mk, plan.panels(), plan.inter);
    Rows src = rows_of(x, plan.token.data());
    plan.for_panels([&](int64_t e, int64_t t, int64_t first, int64_t n) {
      if (!f.small(e))
        mk.pack_along(f.xp.at(t), src, first, n, plan.hidden, 0, f.xp.steps, f.xp.steps, true);
    });
  }
  int64_t pairs = plan.tokens * plan.top_k;
  if (any_small) f.act = empty({pairs, plan.inter});
  f.rows = empty({pairs, plan.hidden});
  auto all = [](int64_t) { return true; };
  int64_t h_steps = steps_of(mk, plan.hidden), i_steps = steps_of(mk, plan.inter);
  int64_t work = pairs * plan.hidden * plan.inter;
  // Nothing but dot products: long units, which memory likes, but four or more a thread.
  auto group = [&](int64_t lines, int64_t steps, int64_t products) {
    const int64_t panels = panels_of(lines);
    if (any_large) return group_of(panels, steps, products, plan.active);
    return ceil_div(panels, ceil_div(4 * num_threads(), std::max<int64_t>(1, plan.active)));
  };
  for_units(plan.units(plan.inter, group(plan.inter, h_steps, 2), all), 2 * work,
            [&](const MoeUnit& u) { f.gate_up(u); });
  for_units(plan.units(plan.hidden, group(plan.hidden, i_steps, 1), all), work,
            [&](const MoeUnit& u) { f.down(u); });
  moe_combine(mk, plan, y, f.rows, weight, false);
}

}  // namespace sutor::cpu
