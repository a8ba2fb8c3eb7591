// moe_ffn backward. z = dy W2 (per pair, before the gate weight), a = silu(gate) up recomputed;
// dweight = <z, a>, da = weight z, SwiGLU's derivative in the epilogue, which writes dgate and dup
// packed for both of their uses; dx += dgate W1 + dup W3 by fixed-order combine; for trainable
// experts dW1 += dgate^T x, dW3 += dup^T x, dW2 += dy^T (weight a). Reference:
// engine/ref/moe_ffn.h; test: tests/kernels/moe_ffn.cpp.

#include <cstring>

#include "engine/cpu/columns.h"
#include "engine/cpu/moe_plan.h"

namespace sutor::cpu {
namespace {

// Units of the products with the columns of weights. With few tokens an expert's columns are not
// cut more than the threads need.
std::vector<MoeUnit> bwd_units(const MoePlan& plan, int64_t lines, int64_t steps,
                               int64_t products) {
  const int64_t panels = panels_of(lines), group = group_of(panels, steps, products, plan.active),
                wide = std::max(group, wide_of(panels, plan.active));
  std::vector<MoeUnit> out;
  for (int32_t e = 0; e < plan.experts; ++e) {
    const int64_t most = panels_of(plan.count(e)) <= kFewTokens ? wide : group;
    for (int64_t p = 0; plan.count(e) > 0 && p < panels; p += most)
      out.push_back({e, static_cast<int32_t>(p), static_cast<int32_t>(std::min(most, panels - p))});
  }
  return out;
}

}  // namespace

void moe_ffn_bwd(Ctx& ctx, Tensor dx, Tensor dweight, ExpertWeights* dw, Tensor dy, Tensor x,
                 Tensor weight, Tensor gate, Tensor up, const MoeIndex& index,
                 const ExpertWeights& w) {
  const MicroKernels& mk = micro_kernels(ctx.compute);
  MoePlan plan(dy, index, w);
  int64_t hidden = plan.hidden, inter = plan.inter, per_panel = 32 / mk.step;
  int64_t h_steps = steps_of(mk, hidden), i_steps = steps_of(mk, inter);
  auto trains = [&](int64_t e) { return dw && (dw->gate[e] || dw->up[e] || dw->down[e]); };
  std::vector<int64_t> steps(plan.experts + 1);
  for (int64_t e = 0; e < plan.experts; ++e)
    steps[e + 1] = steps[e] + (trains(e) ? panels_of(plan.count(e)) * per_panel : 0);

  Panels dyp = make_panels(mk, plan.panels(), hidden);
  Rows dy_rows = rows_of(dy, plan.token.data());
  plan.for_panels([&](int64_t, int64_t t, int64_t first, int64_t n) {
    mk.pack_along(dyp.at(t), dy_rows, first, n, hidden, 0, dyp.steps, dyp.steps, false);
  });

  // z, and from it everything of width I.
  Panels dgp, dup;
  if (dx) dgp = make_panels(mk, plan.panels(), inter), dup = make_panels(mk, plan.panels(), inter);
  Transposed dgt(inter, steps), dut(inter, steps), wat(inter, steps);
  Tensor dots = empty({plan.tokens * plan.top_k, panels_of(inter)});
  int64_t work = plan.tokens * plan.top_k * hidden * inter;
  for_units(bwd_units(plan, inter, h_steps, 1), work, [&](const MoeUnit& u) {
    int64_t e = u.expert, n = plan.count(e), base = plan.first(e);
    sweep_columns(
        mk, {&w.down[e]}, inter, u.first, u.count, n,
        [&](int64_t, int64_t t, int64_t s0) {
          return tiles(dyp.at(plan.panel[e] + t), h_steps, line_width(t, n), s0);
        },
        [&](int64_t i, int64_t t, float* z) {
          alignas(64) float g[1024], v[1024];
          int64_t j = u.first + i, tokens = line_width(t, n), cols = line_width(j, inter);
          std::memset(g, 0, sizeof g);
          std::memset(v, 0, sizeof v);
          for (int64_t r = 0; r < tokens; ++r) {
            int64_t pos = base + t * 32 + r, pair = index.pair[pos];
            kept_row(g + r * 32, gate, pos, j * 32, cols);
            kept_row(v + r * 32, up, pos, j * 32, cols);
            float weighting = weight.row(pair / plan.top_k)[pair % plan.top_k];
            dots.row(pos)[j] = mk.swiglu_grad(z + r * 32, g + r * 32, v + r * 32, weighting, 32);
          }
          int64_t s = j * per_panel;
          if (dx) {
            int64_t left = std::min(per_panel, dgp.steps - s), panel = plan.panel[e] + t;
            mk.pack_along(dgp.at(panel) + s * 1024, block_rows(g), 0, 32, 32, 0, left, dgp.steps,
                          false);
            mk.pack_along(dup.at(panel) + s * 1024, block_rows(v), 0, 32, 32, 0, left, dup.steps,
                          false);
          }
          if (trains(e)) {
            int64_t at = t * per_panel * 1024, total = dgt.steps(e);
            mk.pack_across(dgt.at(e, j) + at, block_rows(g), 0, 32, 32, 0, per_panel, total, false);
            mk.pack_across(dut.at(e, j) + at, block_rows(v), 0, 32, 32, 0, per_panel, total, false);
            mk.pack_across(wat.at(e, j) + at, block_rows(z), 0, 32, 32, 0, per_panel, total, true);
          }
        });
  });
  if (dweight)
    for (int64_t p = 0; p < plan.tokens * plan.top_k; ++p) {
      float sum = 0;
      for (int64_t j = 0; j < panels_of(inter); ++j) sum += dots.row(index.where[p])[j];
      dweight.row(p / plan.top_k)[p % plan.top_k] += sum;
    }

  if (dx) {
    dyp = {};
    Tensor rows = empty({plan.tokens * plan.top_k, hidden});
    for_units(bwd_units(plan, hidden, i_steps, 2), 2 * work, [&](const MoeUnit& u) {
      int64_t e = u.expert, n = plan.count(e), base = plan.first(e);
      sweep_columns(
          mk, {&w.gate[e], &w.up[e]}, hidden, u.first, u.count, n,
          [&](int64_t product, int64_t t, int64_t s0) {
            return tiles((product == 0 ? dgp : dup).at(plan.panel[e] + t), i_steps,
                         line_width(t, n), s0);
          },
          [&](int64_t i, int64_t t, const float* c) {
            mk.store(rows.row(base + t * 32) + (u.first + i) * 32, rows.ld, c, line_width(t, n),
                     line_width(u.first + i, hidden), false);
          });
    });
    moe_combine(mk, plan, dx, rows, {}, true);
  }

  if (steps.back() == 0) return;
  Transposed xt(hidden, steps), dyt(hidden, steps);
  Rows x_rows = rows_of(x, plan.token.data());
  plan.for_panels([&](int64_t e, int64_t t, int64_t first, int64_t n) {
    if (!trains(e)) return;
    Rows sx = x_rows, sdy = dy_rows;
    sx.index += first;
    sdy.index += first;
    int64_t at = (t - plan.panel[e]) * per_panel * 1024, total = xt.steps(e);
    for (int64_t h = 0; h < panels_of(hidden); ++h) {
      int64_t lines = line_width(h, hidden);
      if (dw->gate[e] || dw->up[e])
        mk.pack_across(xt.at(e, h) + at, sx, h * 32, lines, n, 0, per_panel, total, true);
      if (dw->down[e])
        mk.pack_across(dyt.at(e, h) + at, sdy, h * 32, lines, n, 0, per_panel, total, false);
    }
  });
  auto product = [&](const MoeUnit& u, const Tensor& out, const Transposed& a,
                     const Transposed& b) {
    if (!out) return;
    alignas(64) float c[1024];
    for (int64_t q = 0; q < b.line_panels; ++q)
      for (int64_t p = u.first; p < u.first + u.count; ++p) {
        int64_t steps = a.steps(u.expert);
        mk.block(c, tiles(a.at(u.expert, p), steps), tiles(b.at(u.expert, q), steps), steps, false);
        mk.store(out.row(p * 32) + q * 32, out.ld, c, line_width(p, out.dim(0)),
                 line_width(q, out.cols()), true);
      }
  };
  for_units(plan.units(inter, 4, trains), 2 * work, [&](const MoeUnit& u) {
    product(u, dw->gate[u.expert], dgt, xt);
    product(u, dw->up[u.expert], dut, xt);
  });
  for_units(plan.units(hidden, 4, trains), work,
            [&](const MoeUnit& u) { product(u, dw->down[u.expert], dyt, wat); });
}

}  // namespace sutor::cpu
