// moe_ffn forward: y[t] = sum_k weight[t,k] W2_e (silu(W1_e x[t]) * W3_e x[t]). Regions: pack
// tokens by expert; gate and up with SwiGLU in the epilogue, which writes the packed operand of the
// next product; down; combine in fixed order. Experts with few tokens take dot products instead,
// which read the weights as they lie: at most kDecodeTokens are bound by reading them once.
// Reference: engine/ref/moe_ffn.h; test: tests/kernels/moe_ffn.cpp.

#include "engine/cpu/moe_plan.h"

namespace sutor::cpu {
namespace {

struct Forward {
  const MicroKernels& mk;
  MoePlan plan;
  const Tensor &gate, &up, &x;
  const ExpertWeights& w;
  Panels xp, ap;          // tokens by expert: x [P = H], activations [P = I]
  Tensor act, rows;       // [T*K, I] of the small experts; [T*K, H] outputs before the combine
  Tensor few_x, few_act;  // of the experts with few tokens, as mk.pack_few() leaves them

  bool small(int64_t e) const { return plan.count(e) <= kDecodeTokens; }
  bool few(int64_t e) const { return !small(e) && dots(e); }
  bool dots(int64_t e) const { return takes_dots(mk, plan.count(e)); }
  float* few_tokens(const Tensor& packed, int64_t e, int64_t k) const {
    return packed.f32() + plan.first(e) * few_words(mk, k);
  }

  void gate_up(const MoeUnit& u) {
    if (small(u.expert)) return gate_up_small(u);
    if (few(u.expert)) return gate_up_few(u);
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

  void gate_up_few(const MoeUnit& u) {
    const int64_t e = u.expert, n = plan.count(e), base = plan.first(e), h = plan.hidden;
    const float* xs = few_tokens(few_x, e, h);
    float* to = few_tokens(few_act, e, plan.inter);
    alignas(64) float g[kMostDots * 32] = {}, v[kMostDots * 32] = {}, a[kMostDots * 32];
    for (int64_t p = u.first; p < u.first + u.count; ++p) {
      const int64_t line = p * 32, lines = line_width(p, plan.inter);
      for (const auto& [w1, out] : {std::pair{&w.gate[e], g}, {&w.up[e], v}})
        for (int64_t r = 0; r < lines; r += 4)
          dot_rows(mk, out + r, 32, *w1, line + r, std::min<int64_t>(4, lines - r), 1, xs, h, n);
      mk.swiglu(a, g, v, n * 32);
      for (int64_t j = 0; j < n; ++j) {
        if (gate) keep_row(gate, base + j, line, g + j * 32, lines);
        if (up) keep_row(up, base + j, line, v + j * 32, lines);
      }
      for (int64_t j = 0, m; j < n; j += m) {  // group by group into its place
        m = few_group(mk, n - j);
        mk.pack_few(to + j * few_words(mk, plan.inter) + line * m, block_rows(a + j * 32), 0, m,
                    lines);
      }
    }
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
    if (few(u.expert)) {
      const float* as = few_tokens(few_act, u.expert, plan.inter);
      const int64_t end = std::min<int64_t>(plan.hidden, (u.first + u.count) * 32);
      for (int64_t r = u.first * 32; r < end; r += 4)
        dot_rows(mk, rows.row(base) + r, rows.ld, w2, r, std::min<int64_t>(4, end - r), 1, as,
                 plan.inter, n);
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
  Forward f{mk, MoePlan(x, index, w), gate, up, x, w, {}, {}, {}, {}, {}, {}};
  const MoePlan& plan = f.plan;
  int64_t pairs = plan.tokens * plan.top_k;
  bool any_small = false, any_few = false, any_large = false;
  for (int64_t e = 0; e < plan.experts; ++e)
    if (plan.count(e) > 0) (f.small(e) ? any_small : f.few(e) ? any_few : any_large) = true;
  if (any_large) {
    f.xp = make_panels(mk, plan.panels(), plan.hidden);
    f.ap = make_panels(mk, plan.panels(), plan.inter);
  }
  if (any_few) {
    f.few_x = empty({pairs, few_words(mk, plan.hidden)});
    f.few_act = empty({pairs, few_words(mk, plan.inter)});
  }
  if (any_large || any_few) {
    Rows src = rows_of(x, plan.token.data());
    plan.for_panels([&](int64_t e, int64_t t, int64_t first, int64_t n) {
      if (f.few(e))
        mk.pack_few(f.few_tokens(f.few_x, e, plan.hidden), src, first, n, plan.hidden);
      else if (!f.small(e))
        mk.pack_along(f.xp.at(t), src, first, n, plan.hidden, 0, f.xp.steps, f.xp.steps, true);
    });
  }
  if (any_small) f.act = empty({pairs, plan.inter});
  f.rows = empty({pairs, plan.hidden});
  int64_t h_steps = steps_of(mk, plan.hidden), i_steps = steps_of(mk, plan.inter);
  int64_t work = pairs * plan.hidden * plan.inter;
  // Of dot products long units, which memory likes, but four or more a thread.
  auto units = [&](int64_t lines, int64_t steps, int64_t products) {
    const int64_t panels = panels_of(lines), shares = std::max<int64_t>(1, plan.active),
                  group = ceil_div(panels, ceil_div(4 * num_threads(), shares));
    auto out = plan.units(lines, group_of(panels, steps, products, plan.active),
                          [&](int64_t e) { return !f.dots(e); });
    auto more = plan.units(lines, group, [&](int64_t e) { return f.dots(e); });
    out.insert(out.end(), more.begin(), more.end());
    return out;
  };
  for_units(units(plan.inter, h_steps, 2), 2 * work, [&](const MoeUnit& u) { f.gate_up(u); });
  for_units(units(plan.hidden, i_steps, 1), work, [&](const MoeUnit& u) { f.down(u); });
  moe_combine(mk, plan, y, f.rows, weight, false);
}

}  // namespace sutor::cpu
