// Attention over MLA's compressed cache for a few new tokens. kv_b_proj is absorbed: per head n
// with rows Wk[P,L], Wv[Dv,L],
//   u = Wk^T q_nope,  s_j = scale (u . c_j + q_pe . pe_j),  z = sum_j softmax(s)_j c_j,  o = Wv z,
// so the cache is read once per head and keys and values are never expanded (arXiv 2405.04434,
// section 2.1.2).
#include <cmath>
#include <vector>

#include "engine/backend.h"
#include "engine/parallel.h"

namespace sutor::cpu {
namespace {

float dot(const float* a, const float* b, int64_t n) {
  float s[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int j = 0; j < 16; ++j) s[j] += a[i + j] * b[i + j];
  for (; i < n; ++i) s[0] += a[i] * b[i];
  float t = 0;
  for (float x : s) t += x;
  return t;
}

}  // namespace

void mla_decode_fwd(Ctx&, Tensor o, Tensor q, Tensor latent, Tensor pe, Tensor w, int heads,
                    float scale) {
  int64_t L = latent.cols(), R = pe.cols(), S = latent.rows(), P = q.cols() - R, Dv = o.cols(),
          N = heads, n = q.rows() / N;
  parallel_for(N, 1, [&](int64_t lo, int64_t hi) {
    std::vector<float> u(L), s(S), z(L), row(L);
    for (int64_t h = lo; h < hi; ++h) {
      auto weight_row = [&](int64_t r) -> const float* {
        int64_t at = (h * (P + Dv) + r) * w.ld;
        if (w.dtype == DType::F32) return w.f32() + at;
        visit_float(w.dtype, [&](auto t) {
          const auto* src = w.as<decltype(t)>() + at;
          for (int64_t l = 0; l < L; ++l) row[l] = float(src[l]);
        });
        return row.data();
      };
      for (int64_t i = 0; i < n; ++i) {
        const float* qi = q.row(i * N + h);
        int64_t seen = S - n + i + 1;
        std::fill(u.begin(), u.end(), 0.0f);
        for (int64_t p = 0; p < P; ++p) {
          const float* r = weight_row(p);
          for (int64_t l = 0; l < L; ++l) u[l] += qi[p] * r[l];
        }
        float top = -INFINITY;
        for (int64_t j = 0; j < seen; ++j) {
          s[j] = scale * (dot(u.data(), latent.row(j), L) + dot(qi + P, pe.row(j), R));
          top = std::max(top, s[j]);
        }
        float sum = 0;
        std::fill(z.begin(), z.end(), 0.0f);
        for (int64_t j = 0; j < seen; ++j) {
          float e = std::exp(s[j] - top);
          sum += e;
          const float* c = latent.row(j);
          for (int64_t l = 0; l < L; ++l) z[l] += e * c[l];
        }
        float* out = o.row(i * N + h);
        for (int64_t d = 0; d < Dv; ++d) out[d] = dot(z.data(), weight_row(P + d), L) / sum;
      }
    }
  });
}

}  // namespace sutor::cpu
