// The adapters of a PESC layer: y = x + scale sum_k weight Up_e gelu(Down_e drop(x)), and backward.
// Two regions each way. The first has units of (expert, token panels), all of the adapter's narrow
// width: forward packs dropped tokens, multiplies with Down and leaves gelu packed; backward takes
// z = dy Up and leaves dlow and weight * gelu packed for all of their uses. The second has units of
// columns of H over all experts in turn: it owns its columns of y (dx, dUp, dDown), so no [T*K, H]
// tensor exists, no two threads meet and the order of sums is that of the experts, whatever the
// thread count. Experts with at most kDecodeTokens tokens take dot products forward. Reference:
// engine/ref/adapter.h; test: tests/kernels/adapter.cpp.

#include <cstring>
#include <optional>

#include "engine/cpu/moe_plan.h"
#include "engine/cpu/rows.h"

namespace sutor::cpu {
namespace {

enum Slot { kWeights, kTokens, kDropped, kX, kDy };  // of scratch()

struct Adapter {
  const MicroKernels& mk;
  const RowKernels& rows = row_kernels();
  MoePlan plan;
  const AdapterWeights& w;
  const Tensor &x, &weight;
  float scale;
  bool drops;
  DropoutConstants mask;
  int64_t hidden = plan.hidden, width = plan.inter, h_steps = steps_of(mk, hidden),
          a_steps = steps_of(mk, width), per_panel = 32 / mk.step;

  Adapter(Ctx& ctx, const Tensor& x, const Tensor& tokens, const Tensor& weight,
          const MoeIndex& index, const AdapterWeights& w, float scale, const Dropout& drop)
      : mk(micro_kernels(ctx.compute)),
        plan(tokens, index, w),
        w(w),
        x(x),
        weight(weight),
        scale(scale),
        drops(drop.p > 0),
        mask(dropout_constants(drop)) {}

  bool small(int64_t e) const { return plan.count(e) <= kDecodeTokens; }
  int32_t pair(int64_t pos) const { return plan.index->pair[pos]; }
  float share(int64_t pos) const {  // what gelu's product with Up is multiplied with
    return scale * weight.row(plan.token[pos])[pair(pos) % plan.top_k];
  }

  // Columns lo..lo+n of drop(x) for sorted positions pos..pos+count, as rows to pack from.
  Rows dropped(int64_t pos, int64_t count, int64_t lo, int64_t n) const {
    if (!drops) return {x.f32() + lo, DType::F32, x.ld, plan.token.data() + pos};
    auto* to = reinterpret_cast<float*>(scratch(kDropped, count * n * 4));
    for (int64_t r = 0; r < count; ++r)
      rows.dropout(to + r * n, x.row(plan.token[pos + r]) + lo, mask, pair(pos + r) * hidden + lo,
                   n, false);
    return {to, DType::F32, n, nullptr};
  }

  // Token panels of every expert in units of at most `group`; where `dots`, experts with few tokens
  // in units of so many times 16 lines of the adapter instead.
  std::vector<MoeUnit> token_units(bool dots) const {
    // The fewer units the less often weights are packed; their tokens stay below 2 MiB.
    int64_t fits = std::clamp<int64_t>((2 << 20) / (h_steps * 2048), 1, 8);
    int64_t group = std::clamp<int64_t>(plan.panels() / (2 * num_threads()), 1, fits);
    // Of few tokens each unit rounds and drops its tokens anew: two or three units a thread.
    int64_t lines = ceil_div(ceil_div(width, 16) * plan.active, 2 * num_threads());
    std::vector<MoeUnit> out;
    for (int32_t e = 0; e < plan.experts; ++e) {
      bool few = dots && small(e);
      int64_t n = plan.count(e) == 0 ? 0
                  : few              ? ceil_div(width, 16)
                                     : panels_of(plan.count(e)),
              step = few ? lines : group;
      for (int64_t p = 0; p < n; p += step)
        out.push_back({e, static_cast<int32_t>(p), static_cast<int32_t>(std::min(step, n - p))});
    }
    return out;
  }

  // All of the adapter's width for the unit's token panels, packed at `tokens` along H: done(j, t,
  // c) takes the block of lines 32 j.. and token panel t of the unit, c[token][line].
  template <class F>
  void narrow(const MoeUnit& u, const char* tokens, const Tensor& from, bool across,
              F&& done) const {
    int64_t n = plan.count(u.expert), all = panels_of(width);
    int64_t group = group_of(all, h_steps, 1, 3 * num_threads());  // as many as stay in L2
    for (int64_t first = 0; first < all; first += group) {
      int64_t count = std::min(group, all - first);
      const char* wp = pack_group(mk, kWeights, from, across, width, hidden, first, count, true);
      sweep(
          count, u.count, h_steps, 1,
          [&](int64_t i, int64_t t, int64_t s0, int64_t run, float* c, bool more) {
            mk.block(c, tiles(tokens + t * h_steps * 2048, h_steps, line_width(u.first + t, n), s0),
                     tiles(wp + i * h_steps * 2048, h_steps, line_width(first + i, width), s0), run,
                     more);
          },
          [&](int64_t i, int64_t t, float* c) { done(first + i, t, c); });
    }
  }

  // Blocks of the columns 32 first.. of H by the tokens of one expert, c[token][column], from
  // tokens packed along the adapter's width: done(i, t, c).
  template <class F>
  void wide(int64_t e, int64_t first, int64_t count, const Panels& tokens, const Tensor& from,
            bool across, F&& done) const {
    int64_t n = plan.count(e);
    const char* wp = pack_group(mk, kWeights, from, across, hidden, width, first, count, true);
    sweep(
        count, panels_of(n), a_steps, 1,
        [&](int64_t i, int64_t t, int64_t s0, int64_t run, float* c, bool more) {
          mk.block(c, tiles(tokens.at(plan.panel[e] + t), a_steps, line_width(t, n), s0),
                   tiles(wp + i * a_steps * 2048, a_steps, line_width(first + i, hidden), s0), run,
                   more);
        },
        done);
  }

  // fn(first, count): panels of columns of H, in parallel.
  template <class F>
  void by_columns(int64_t group, int64_t work, F&& fn) const {
    int64_t all = panels_of(hidden), n = ceil_div(all, group);
    parallel_for(n, grain_of(work / std::max<int64_t>(1, n)), [&](int64_t lo, int64_t hi) {
      for (int64_t u = lo; u < hi; ++u) fn(u * group, std::min(group, all - u * group));
    });
  }
};

struct Forward : Adapter {
  using Adapter::Adapter;
  Tensor low;
  Panels ap;   // gelu, packed along the width
  Tensor act;  // [T*K, A] of the small experts

  void down(const MoeUnit& u) const {
    if (small(u.expert)) return down_small(u);
    int64_t base = plan.first(u.expert) + u.first * 32, n = plan.count(u.expert);
    char* tokens = scratch(kTokens, u.count * h_steps * 2048);
    for (int64_t t = 0; t < u.count; ++t) {
      int64_t count = line_width(u.first + t, n);
      mk.pack_along(tokens + t * h_steps * 2048, dropped(base + t * 32, count, 0, hidden), 0, count,
                    hidden, 0, h_steps, h_steps, false);
    }
    narrow(u, tokens, w.down[u.expert], false, [&](int64_t j, int64_t t, const float* c) {
      if (low)
        mk.store(low.row(base + t * 32) + j * 32, low.ld, c, line_width(u.first + t, n),
                 line_width(j, width), false);
      alignas(64) float a[1024];
      rows.gelu(a, c, 1024);
      int64_t s = j * per_panel;
      mk.pack_along(ap.at(plan.panel[u.expert] + u.first + t) + s * 1024, block_rows(a), 0, 32, 32,
                    0, std::min(per_panel, ap.steps - s), ap.steps, false);
    });
  }

  void down_small(const MoeUnit& u) const {
    int64_t n = plan.count(u.expert), base = plan.first(u.expert);
    auto* xs = reinterpret_cast<float*>(scratch(kTokens, n * hidden * 4));
    Rows from = dropped(base, n, 0, hidden);
    for (int64_t j = 0; j < n; ++j) {
      const float* row =
          static_cast<const float*>(from.data) + (from.index ? from.index[j] : j) * from.ld;
      for (int64_t h = 0; h < hidden; ++h)
        xs[j * hidden + h] = mk.rounds ? float(bf16(row[h])) : row[h];
    }
    int64_t end = std::min<int64_t>(width, (u.first + u.count) * 16);
    float l[kDecodeTokens][4], a[4];
    for (int64_t r = u.first * 16; r < end; r += 4) {
      int64_t m = std::min<int64_t>(4, end - r);
      dot_rows(mk, l[0], 4, w.down[u.expert], r, m, 1, xs, hidden, n);
      for (int64_t j = 0; j < n; ++j) {
        rows.gelu(a, l[j], m);
        for (int64_t i = 0; i < m; ++i) {
          act.row(base + j)[r + i] = mk.rounds ? float(bf16(a[i])) : a[i];
          if (low) low.row(base + j)[r + i] = l[j][i];
        }
      }
    }
  }

  // y's columns 32 first..: the identity, then every expert in turn.
  void up(const Tensor& y, int64_t first, int64_t count) const {
    int64_t lo = first * 32, end = std::min(hidden, lo + count * 32);
    for (int64_t t = 0; t < plan.tokens; ++t)
      std::memcpy(y.row(t) + lo, x.row(t) + lo, (end - lo) * 4);
    for (int64_t e = 0; e < plan.experts; ++e) {
      int64_t n = plan.count(e), base = plan.first(e);
      if (n == 0) continue;
      if (small(e)) {
        float out[kDecodeTokens][4];
        for (int64_t r = lo; r < end; r += 4) {
          int64_t m = std::min<int64_t>(4, end - r);
          dot_rows(mk, out[0], 4, w.up[e], r, m, 1, act.row(base), act.ld, n);
          for (int64_t j = 0; j < n; ++j)
            mk.axpy(y.row(plan.token[base + j]) + r, out[j], share(base + j), m);
        }
        continue;
      }
      wide(e, first, count, ap, w.up[e], false, [&](int64_t i, int64_t t, const float* c) {
        int64_t h = (first + i) * 32, cols = line_width(first + i, hidden);
        for (int64_t r = 0; r < line_width(t, n); ++r) {
          int64_t pos = base + t * 32 + r;
          mk.axpy(y.row(plan.token[pos]) + h, c + r * 32, share(pos), cols);
        }
      });
    }
  }
};

struct Backward : Adapter {
  using Adapter::Adapter;
  const AdapterWeights* dw = nullptr;
  Tensor dy, low, dx, dweight;
  Panels dlp;                          // dlow packed along the width, for dx
  std::optional<Transposed> dlt, wat;  // dlow, weight * gelu with P = tokens

  bool trains(int64_t e) const { return dw && (dw->down[e] || dw->up[e]); }

  void z(const MoeUnit& u) const {
    int64_t e = u.expert, n = plan.count(e), base = plan.first(e) + u.first * 32;
    char* tokens = scratch(kTokens, u.count * h_steps * 2048);
    for (int64_t t = 0; t < u.count; ++t)
      mk.pack_along(tokens + t * h_steps * 2048, rows_of(dy, plan.token.data() + base + t * 32), 0,
                    line_width(u.first + t, n), hidden, 0, h_steps, h_steps, false);
    float dots[8 * 32] = {};
    narrow(u, tokens, w.up[e], true, [&](int64_t j, int64_t t, float* c) {
      alignas(64) float dl[1024];
      std::memset(dl, 0, sizeof dl);
      int64_t cols = line_width(j, width);
      for (int64_t r = 0; r < line_width(u.first + t, n); ++r) {
        int64_t pos = base + t * 32 + r;
        dots[t * 32 + r] +=
            rows.gelu_grad(dl + r * 32, c + r * 32, low.row(pos) + j * 32, share(pos), cols);
      }
      int64_t s = j * per_panel;
      if (dx)
        mk.pack_along(dlp.at(plan.panel[e] + u.first + t) + s * 1024, block_rows(dl), 0, 32, 32, 0,
                      std::min(per_panel, dlp.steps - s), dlp.steps, false);
      if (!trains(e)) return;
      int64_t at = (u.first + t) * per_panel * 1024, total = dlt->steps(e);
      mk.pack_across(dlt->at(e, j) + at, block_rows(dl), 0, 32, 32, 0, per_panel, total, false);
      mk.pack_across(wat->at(e, j) + at, block_rows(c), 0, 32, 32, 0, per_panel, total, true);
    });
    if (dweight)  // every pair belongs to one unit
      for (int64_t r = 0; r < std::min<int64_t>(u.count * 32, n - u.first * 32); ++r)
        dweight.row(plan.token[base + r])[pair(base + r) % plan.top_k] += scale * dots[r];
  }

  void columns(int64_t first, int64_t count) const {
    int64_t lo = first * 32, n = std::min(hidden, lo + count * 32) - lo;
    for (int64_t t = 0; dx && t < plan.tokens; ++t) mk.axpy(dx.row(t) + lo, dy.row(t) + lo, 1, n);
    for (int64_t e = 0; e < plan.experts; ++e) {
      if (plan.count(e) == 0) continue;
      if (dx) input(e, first, count);
      if (dw && dw->down[e]) down(e, first, count);
      if (dw && dw->up[e]) up(e, first, count);
    }
  }

  void input(int64_t e, int64_t first, int64_t count) const {
    int64_t base = plan.first(e), n = plan.count(e);
    wide(e, first, count, dlp, w.down[e], true, [&](int64_t i, int64_t t, const float* c) {
      int64_t h = (first + i) * 32, cols = line_width(first + i, hidden);
      for (int64_t r = 0; r < line_width(t, n); ++r) {
        int64_t pos = base + t * 32 + r;
        float* to = dx.row(plan.token[pos]) + h;
        if (drops)
          rows.dropout(to, c + r * 32, mask, pair(pos) * hidden + h, cols, true);
        else
          mk.axpy(to, c + r * 32, 1, cols);
      }
    });
  }

  // Panels of the expert's columns with P = its tokens; from(pos, count) are rows of the columns.
  template <class F>
  char* across(Slot slot, int64_t e, int64_t first, int64_t count, bool is_b, F&& from) const {
    int64_t n = plan.count(e), total = dlt->steps(e);
    char* out = scratch(slot, count * total * 2048);
    for (int64_t t = 0; t < panels_of(n); ++t) {
      Rows src = from(plan.first(e) + t * 32, line_width(t, n));
      for (int64_t i = 0; i < count; ++i)
        mk.pack_across(out + i * total * 2048 + t * per_panel * 1024, src, i * 32,
                       line_width(first + i, hidden), line_width(t, n), 0, per_panel, total, is_b);
    }
    return out;
  }

  void down(int64_t e, int64_t first, int64_t count) const {
    int64_t total = dlt->steps(e), n = std::min(hidden - first * 32, count * 32);
    const char* xp = across(kX, e, first, count, true, [&](int64_t pos, int64_t tokens) {
      return dropped(pos, tokens, first * 32, n);
    });
    alignas(64) float c[1024];
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < panels_of(width); ++j) {
        int64_t lines = line_width(j, width), cols = line_width(first + i, hidden);
        mk.block(c, tiles(dlt->at(e, j), total, lines), tiles(xp + i * total * 2048, total, cols),
                 total, false);
        const Tensor& d = dw->down[e];
        mk.store(d.row(j * 32) + (first + i) * 32, d.ld, c, lines, cols, true);
      }
  }

  void up(int64_t e, int64_t first, int64_t count) const {
    int64_t total = wat->steps(e);
    const char* dyp = across(kDy, e, first, count, false, [&](int64_t pos, int64_t) {
      return Rows{dy.f32() + first * 32, DType::F32, dy.ld, plan.token.data() + pos};
    });
    alignas(64) float c[1024];
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < panels_of(width); ++j) {
        int64_t lines = line_width(first + i, hidden), cols = line_width(j, width);
        mk.block(c, tiles(dyp + i * total * 2048, total, lines), tiles(wat->at(e, j), total, cols),
                 total, false);
        const Tensor& d = dw->up[e];
        mk.store(d.row((first + i) * 32) + j * 32, d.ld, c, lines, cols, true);
      }
  }
};

}  // namespace

void adapter_fwd(Ctx& ctx, Tensor y, Tensor low, Tensor x, Tensor weight, const MoeIndex& index,
                 const AdapterWeights& w, float scale, Dropout drop) {
  Forward f(ctx, x, x, weight, index, w, scale, drop);
  f.low = low;
  bool any_small = false, any_large = false;
  for (int64_t e = 0; e < f.plan.experts; ++e)
    if (f.plan.count(e) > 0) (f.small(e) ? any_small : any_large) = true;
  int64_t pairs = f.plan.tokens * f.plan.top_k, work = pairs * f.hidden * f.width;
  if (any_large) f.ap = make_panels(f.mk, f.plan.panels(), f.width);
  if (any_small) f.act = empty({pairs, f.width});
  for_units(f.token_units(true), work, [&](const MoeUnit& u) { f.down(u); });
  int64_t group = group_of(panels_of(f.hidden), f.a_steps);
  f.by_columns(group, work, [&](int64_t first, int64_t count) { f.up(y, first, count); });
}

void adapter_bwd(Ctx& ctx, Tensor dx, Tensor dweight, AdapterWeights* dw, Tensor dy, Tensor x,
                 Tensor weight, Tensor low, const MoeIndex& index, const AdapterWeights& w,
                 float scale, Dropout drop) {
  Backward b(ctx, x, dy, weight, index, w, scale, drop);
  b.dw = dw;
  b.dy = dy, b.low = low, b.dx = dx, b.dweight = dweight;
  std::vector<int64_t> steps(b.plan.experts + 1);
  for (int64_t e = 0; e < b.plan.experts; ++e)
    steps[e + 1] = steps[e] + (b.trains(e) ? panels_of(b.plan.count(e)) * b.per_panel : 0);
  if (dx) b.dlp = make_panels(b.mk, b.plan.panels(), b.width);
  b.dlt.emplace(b.width, steps);
  b.wat.emplace(b.width, steps);
  int64_t work = b.plan.tokens * b.plan.top_k * b.hidden * b.width;
  for_units(b.token_units(false), work, [&](const MoeUnit& u) { b.z(u); });
  if (!dx && steps.back() == 0) return;
  int64_t longest = b.a_steps;
  for (int64_t e = 0; e < b.plan.experts; ++e)
    longest = std::max(longest, 2 * (steps[e + 1] - steps[e]));
  b.by_columns(group_of(panels_of(b.hidden), longest), work,
               [&](int64_t first, int64_t count) { b.columns(first, count); });
}

}  // namespace sutor::cpu
