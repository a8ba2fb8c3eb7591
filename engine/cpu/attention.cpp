// attention, causal inside documents, f32, on the packed 32 x 32 micro-kernels. Forward: per (head,
// 32 queries) an online softmax over key blocks from the documents' first key on; K and V are
// packed once per key/value head. Backward: per key/value head, so that dk and dv have one writer;
// P is recomputed from lse. Up to kDecodeTokens queries: dot products, K and V read once.
// Reference: engine/ref/attention.h; test: tests/kernels/attention.cpp.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/cpu/gemm.h"

namespace sutor::cpu {
namespace {

struct Attend {
  const MicroKernels& mk = micro_kernels(Compute::kF32);
  int64_t heads, kv_heads, tq, tk, d, dv, shift;  // query i has position i + shift
  float scale;
  const int32_t* start;  // of the queries, null: 0
  Tensor q, k, v;

  Attend(const Tensor& q_, const Tensor& k_, const Tensor& v_, const Tensor& s, int n, int g,
         float scale_)
      : heads(n),
        kv_heads(g),
        tq(q_.rows() / n),
        tk(k_.rows() / g),
        d(q_.cols()),
        dv(v_.cols()),
        shift(tk - tq),
        scale(scale_),
        start(nullptr),
        q(q_),
        k(k_),
        v(v_) {
    check(n > 0 && g > 0 && n % g == 0 && q.rows() == tq * n && k.rows() == tk * g &&
              v.rows() == k.rows() && k.cols() == d && shift >= 0 &&
              (!s || s.numel() == tk || s.numel() == tq),
          "attention: q {}, k {}, v {}, start {}, {} heads, {} key heads", to_string(q.shape),
          to_string(k.shape), to_string(v.shape), to_string(s.shape), n, g);
    if (s) start = s.i32() + (s.numel() == tk ? shift : 0);
  }
  int64_t first_key(int64_t i) const { return start ? start[i] : 0; }
  // Rows of one head: `t` is [tokens * n, width].
  static Rows head(const Tensor& t, int64_t n, int64_t h, int64_t first = 0) {
    return {t.f32() + (first * n + h) * t.ld, DType::F32, n * t.ld, nullptr};
  }
  int64_t group() const { return heads / kv_heads; }
  int64_t width(int64_t panel) const { return std::min<int64_t>(32, tq - panel * 32); }
};

char* pack_rows(const Attend& a, int slot, const Tensor& t, int64_t n, int64_t h, int64_t first,
                int64_t rows) {
  int64_t steps = steps_of(a.mk, t.cols());
  char* out = scratch(slot, steps * 2048);
  a.mk.pack_along(out, Attend::head(t, n, h, first), 0, rows, t.cols(), 0, steps, steps, false);
  return out;
}

// Panels of the columns of `rows` <= 32 rows, P = the rows (32 of them: 2 steps of 16 for f32).
void pack_cols(const Attend& a, char* out, const Rows& src, int64_t rows, int64_t cols) {
  int64_t steps = 32 / a.mk.step;
  for (int64_t j = 0; j < panels_of(cols); ++j)
    a.mk.pack_across(out + j * steps * 2048, src, j * 32, std::min<int64_t>(32, cols - j * 32),
                     rows, 0, steps, steps, true);
}

void decode(const Attend& a, const Tensor& o, const Tensor& lse) {
  parallel_for(
      a.tq * a.kv_heads, grain_of(a.tk * a.group() * (a.d + a.dv)), [&](int64_t lo, int64_t hi) {
        for (int64_t unit = lo; unit < hi; ++unit) {
          int64_t i = unit / a.kv_heads, g = unit % a.kv_heads, pos = a.shift + i,
                  j0 = a.first_key(i), n = pos + 1 - j0;
          auto* s = reinterpret_cast<float*>(scratch(0, kDecodeTokens * (n + 16) * 4));
          Rows keys = Attend::head(a.k, a.kv_heads, g, j0);
          for (int64_t h = 0; h < a.group(); h += kDecodeTokens) {
            int64_t m = std::min(kDecodeTokens, a.group() - h),
                    row = i * a.heads + g * a.group() + h;
            for (int64_t j = 0; j < n; j += 4)
              a.mk.dot(s + j, n + 16, keys, j, std::min<int64_t>(4, n - j), a.q.row(row), a.q.ld, m,
                       a.d, 4 * keys.ld);
            for (int64_t r = 0; r < m; ++r) {
              float* p = s + r * (n + 16);
              float top = *std::max_element(p, p + n) * a.scale;
              float sum = a.mk.exp_sum(p, a.scale, top, n);
              if (lse) lse.f32()[row + r] = top + std::log(sum);
              for (int64_t j = 0; j < n; ++j) p[j] /= sum;
              std::fill_n(o.row(row + r), a.dv, 0.0f);
            }
            const int64_t ldv = a.kv_heads * a.v.ld;
            for (int64_t j = 0; j < n; j += 4)
              for (int64_t r = 0; r < m; ++r) {
                const float *v = a.v.row((j0 + j) * a.kv_heads + g), *p = s + r * (n + 16) + j;
                if (n - j >= 4) {
                  a.mk.axpy4(o.row(row + r), v, ldv, p, a.dv);
                  continue;
                }
                for (int64_t i = 0; i < n - j; ++i)
                  a.mk.axpy(o.row(row + r), v + i * ldv, p[i], a.dv);
              }
          }
        }
      });
}

}  // namespace

void attention_fwd(Ctx&, Tensor o, Tensor lse, Tensor q, Tensor k, Tensor v, Tensor start,
                   int heads, int kv_heads, float scale) {
  Attend a(q, k, v, start, heads, kv_heads, scale);
  if (a.tq <= kDecodeTokens && scale > 0) return decode(a, o, lse);
  const MicroKernels& mk = a.mk;
  int64_t blocks = panels_of(a.tk), per = 32 / mk.step, dvp = panels_of(a.dv),
          d_steps = steps_of(mk, a.d);
  Panels kp = make_panels(mk, blocks * kv_heads, a.d),
         vp = make_panels(mk, blocks * kv_heads * dvp, 32);
  parallel_for(blocks * kv_heads, grain_of(512 * (a.d + a.dv)), [&](int64_t lo, int64_t hi) {
    for (int64_t u = lo; u < hi; ++u) {
      int64_t g = u / blocks, j = u % blocks * 32, rows = std::min<int64_t>(32, a.tk - j);
      mk.pack_along(kp.at(u), Attend::head(k, kv_heads, g, j), 0, rows, a.d, 0, d_steps, d_steps,
                    true);
      pack_cols(a, vp.at(u * dvp), Attend::head(v, kv_heads, g, j), rows, a.dv);
    }
  });
  parallel_for(
      panels_of(a.tq) * heads, grain_of(16 * a.tk * (a.d + a.dv)), [&](int64_t lo, int64_t hi) {
        alignas(64) float s[1024];
        for (int64_t u = hi - 1; u >= lo; --u) {
          int64_t qb = u / heads, h = u % heads, g = h / a.group(), rows = a.width(qb);
          char* qp = pack_rows(a, 0, q, heads, h, qb * 32, rows);
          char* pp = scratch(1, per * 2048);
          auto* acc = reinterpret_cast<float*>(scratch(2, dvp * 4096));
          std::memset(acc, 0, dvp * 4096);
          float top[32], sum[32] = {};
          std::fill_n(top, 32, -INFINITY);
          int64_t first = a.tk;
          for (int64_t r = 0; r < rows; ++r) first = std::min(first, a.first_key(qb * 32 + r));
          for (int64_t j = first / 32; j <= (a.shift + qb * 32 + rows - 1) / 32; ++j) {
            mk.block(s, tiles(qp, d_steps), tiles(kp.at(g * blocks + j), d_steps), d_steps, false);
            for (int64_t r = 0; r < 32; ++r) {
              int64_t i = qb * 32 + r, from = 0, to = 0;  // keys of this block that row r sees
              if (r < rows) {
                from = std::max<int64_t>(0, a.first_key(i) - j * 32);
                to = std::min<int64_t>(32, a.shift + i + 1 - j * 32);
              }
              float* p = s + r * 32;
              if (from >= to) {
                std::memset(p, 0, 128);
                continue;
              }
              float m = top[r];
              for (int64_t c = from; c < to; ++c) m = std::max(m, p[c] * a.scale);
              if (m > top[r]) {
                float shrink = std::exp(top[r] - m);
                for (int64_t b = 0; b < dvp; ++b)
                  for (int64_t c = 0; c < 32; ++c) acc[b * 1024 + r * 32 + c] *= shrink;
                sum[r] *= shrink;
                top[r] = m;
              }
              std::fill_n(p, from, 0.0f);
              std::fill(p + to, p + 32, 0.0f);
              sum[r] += mk.exp_sum(p + from, a.scale, m, to - from);
            }
            mk.pack_along(pp, {s, DType::F32, 32, nullptr}, 0, 32, 32, 0, per, per, false);
            Tiles p = tiles(pp, per);
            for (int64_t b = 0; b < dvp; ++b)
              mk.block(acc + b * 1024, p, tiles(vp.at((g * blocks + j) * dvp + b), per), per, true);
          }
          for (int64_t r = 0; r < rows; ++r) {
            int64_t row = (qb * 32 + r) * heads + h;
            for (int64_t c = 0; c < a.dv; ++c)
              o.row(row)[c] = acc[c / 32 * 1024 + r * 32 + c % 32] / sum[r];
            if (lse) lse.f32()[row] = top[r] + std::log(sum[r]);
          }
        }
      });
}

void attention_bwd(Ctx&, Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor o, Tensor lse,
                   Tensor q, Tensor k, Tensor v, Tensor start, int heads, int kv_heads,
                   float scale) {
  Attend a(q, k, v, start, heads, kv_heads, scale);
  const MicroKernels& mk = a.mk;
  int64_t blocks = panels_of(a.tk), per = 32 / mk.step, dp = panels_of(a.d), dvp = panels_of(a.dv);
  int64_t d_steps = steps_of(mk, a.d), dv_steps = steps_of(mk, a.dv), part = per * 2048;
  parallel_for(kv_heads, 1, [&](int64_t lo, int64_t hi) {
    alignas(64) float s[1024], ds[1024];
    for (int64_t g = lo; g < hi; ++g) {
      Panels ka = make_panels(mk, blocks, a.d), va = make_panels(mk, blocks, a.dv),
             kc = make_panels(mk, blocks * dp, 32);
      for (int64_t j = 0; j < blocks; ++j) {
        int64_t rows = std::min<int64_t>(32, a.tk - j * 32);
        Rows ks = Attend::head(k, kv_heads, g, j * 32), vs = Attend::head(v, kv_heads, g, j * 32);
        mk.pack_along(ka.at(j), ks, 0, rows, a.d, 0, d_steps, d_steps, true);
        mk.pack_along(va.at(j), vs, 0, rows, a.dv, 0, dv_steps, dv_steps, true);
        pack_cols(a, kc.at(j * dp), ks, rows, a.d);
      }
      Tensor sums =
          zeros({blocks * (dp + dvp), 1024});  // per key block: dk then dv, in 32 x 32 blocks
      for (int64_t u = 0; u < a.group() * panels_of(a.tq); ++u) {
        int64_t h = g * a.group() + u % a.group(), qb = u / a.group(), rows = a.width(qb),
                first = a.tk;
        char* qp = pack_rows(a, 0, q, heads, h, qb * 32, rows);
        char* gp = pack_rows(a, 1, dout, heads, h, qb * 32, rows);
        char *qc = scratch(2, dp * part), *gc = scratch(3, dvp * part), *pp = scratch(4, part);
        pack_cols(a, qc, Attend::head(q, heads, h, qb * 32), rows, a.d);
        pack_cols(a, gc, Attend::head(dout, heads, h, qb * 32), rows, a.dv);
        auto* acc = reinterpret_cast<float*>(scratch(5, dp * 4096));
        std::memset(acc, 0, dp * 4096);
        float delta[32] = {};
        for (int64_t r = 0; r < rows; ++r) {
          int64_t row = (qb * 32 + r) * heads + h;
          for (int64_t c = 0; c < a.dv; ++c) delta[r] += dout.row(row)[c] * o.row(row)[c];
          first = std::min(first, a.first_key(qb * 32 + r));
        }
        for (int64_t j = first / 32; j <= (a.shift + qb * 32 + rows - 1) / 32; ++j) {
          mk.block(s, tiles(qp, d_steps), tiles(ka.at(j), d_steps), d_steps, false);
          mk.block(ds, tiles(gp, dv_steps), tiles(va.at(j), dv_steps), dv_steps, false);
          for (int64_t r = 0; r < 32; ++r) {
            int64_t i = qb * 32 + r, from = 0, to = 0;
            if (r < rows) {
              from = std::max<int64_t>(0, a.first_key(i) - j * 32);
              to = std::max(from, std::min<int64_t>(32, a.shift + i + 1 - j * 32));
              from = std::min(from, to);
            }
            float *p = s + r * 32, *t = ds + r * 32;
            if (from < to) mk.exp_sum(p + from, a.scale, lse.f32()[i * heads + h], to - from);
            for (int64_t c = 0; c < 32; ++c) {
              p[c] = c >= from && c < to ? p[c] : 0.0f;
              t[c] = c >= from && c < to ? p[c] * (t[c] - delta[r]) * a.scale : 0.0f;
            }
          }
          Rows ps{s, DType::F32, 32, nullptr}, ts{ds, DType::F32, 32, nullptr};
          float* to = sums.row(j * (dp + dvp));
          Tiles pt = tiles(pp, per);
          if (dv) {
            mk.pack_across(pp, ps, 0, 32, 32, 0, per, per, false);
            for (int64_t b = 0; b < dvp; ++b)
              mk.block(to + (dp + b) * 1024, pt, tiles(gc + b * part, per), per, true);
          }
          if (dk) {
            mk.pack_across(pp, ts, 0, 32, 32, 0, per, per, false);
            for (int64_t b = 0; b < dp; ++b)
              mk.block(to + b * 1024, pt, tiles(qc + b * part, per), per, true);
          }
          if (dq) {
            mk.pack_along(pp, ts, 0, 32, 32, 0, per, per, false);
            for (int64_t b = 0; b < dp; ++b)
              mk.block(acc + b * 1024, pt, tiles(kc.at(j * dp + b), per), per, true);
          }
        }
        for (int64_t b = 0; dq && b < dp; ++b)
          mk.store(dq.row(qb * 32 * heads + h) + b * 32, heads * dq.ld, acc + b * 1024, rows,
                   std::min<int64_t>(32, a.d - b * 32), true);
      }
      for (int64_t j = 0; j < blocks; ++j) {
        int64_t rows = std::min<int64_t>(32, a.tk - j * 32), row = j * 32 * kv_heads + g;
        for (int64_t b = 0; dk && b < dp; ++b)
          mk.store(dk.row(row) + b * 32, kv_heads * dk.ld, sums.row(j * (dp + dvp) + b), rows,
                   std::min<int64_t>(32, a.d - b * 32), true);
        for (int64_t b = 0; dv && b < dvp; ++b)
          mk.store(dv.row(row) + b * 32, kv_heads * dv.ld, sums.row(j * (dp + dvp) + dp + b), rows,
                   std::min<int64_t>(32, a.dv - b * 32), true);
      }
    }
  });
}

}  // namespace sutor::cpu
