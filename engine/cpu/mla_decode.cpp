// Attention over MLA's compressed cache for a few new tokens. kv_b_proj is absorbed: per head n
// with rows Wk[P,L], Wv[Dv,L],
//   u = Wk^T q_nope,  s_j = scale (u . c_j + q_pe . pe_j),  z = sum_j softmax(s)_j c_j,  o = Wv z,
// so the cache is read once per head and keys and values are never expanded (arXiv 2405.04434,
// section 2.1.2).
// Up to four tokens go together; each is computed as if alone, so results do not depend on how
// many.
#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/cpu/gemm.h"
#include "engine/cpu/packed.h"
#include "engine/quant.h"

namespace sutor::cpu {

void mla_decode_fwd(Ctx&, Tensor o, Tensor q, Tensor latent, Tensor pe, Tensor w, int heads,
                    float scale) {
  const MicroKernels& mk = micro_kernels(Compute::kF32);
  int64_t L = latent.cols(), R = pe.cols(), S = latent.rows(), P = q.cols() - R, Dv = o.cols(),
          N = heads, n = q.rows() / N, ld = S + 4;
  int64_t work = n * ((P + Dv) * L + S * (2 * L + R));
  parallel_for(N, grain_of(work), [&](int64_t lo, int64_t hi) {
    std::vector<float> u(kDecodeTokens * L), z(kDecodeTokens * L), s(kDecodeTokens * ld), row(L);
    float part[kDecodeTokens][4], sum[kDecodeTokens];
    auto weight_row = [&](int64_t r) -> const float* {
      if (w.dtype == DType::F32) return w.row(r);
      const void* at = w.data + (is_packed(w.dtype) ? 0 : r * w.ld * size_of(w.dtype));
      if (is_packed(w.dtype))
        at = packed_rows(mk, w, r, 1, 0, L, scratch(kPackedSlot, 4 * L * 4)).data;
      // What is unpacked to F16 is float here.
      const DType type =
          is_packed(w.dtype) && float_type(w) != DType::BF16 ? DType::F32 : float_type(w);
      visit_float(type, [&](auto t) {
        const auto* src = static_cast<const decltype(t)*>(at);
        for (int64_t l = 0; l < L; ++l) row[l] = float(src[l]);
      });
      return row.data();
    };
    for (int64_t h = lo; h < hi; ++h) {
      int64_t base = h * (P + Dv);  // first row of the head's Wk, then Wv
      for (int64_t first = 0; first < n; first += kDecodeTokens) {
        int64_t m = std::min(kDecodeTokens, n - first);
        auto query = [&](int64_t i) { return q.row((first + i) * N + h); };
        std::fill(u.begin(), u.end(), 0.0f);
        std::fill(z.begin(), z.end(), 0.0f);
        for (int64_t p = 0; p < P; ++p) {
          const float* r = weight_row(base + p);
          for (int64_t i = 0; i < m; ++i) mk.axpy(&u[i * L], r, query(i)[p], L);
        }
        for (int64_t j = 0; j < S; j += 4) {
          int64_t rows = std::min<int64_t>(4, S - j);
          mk.dot(&s[j], ld, rows_of(latent), j, rows, u.data(), L, m, L, 4 * latent.ld);
          mk.dot(part[0], 4, rows_of(pe), j, rows, query(0) + P, N * q.ld, m, R, 4 * pe.ld);
          for (int64_t i = 0; i < m; ++i)
            for (int64_t r = 0; r < rows; ++r) s[i * ld + j + r] += part[i][r];
        }
        auto seen = [&](int64_t i) { return S - n + first + i + 1; };
        for (int64_t i = 0; i < m; ++i) {
          float* p = &s[i * ld];
          sum[i] = mk.exp_sum(p, scale, *std::max_element(p, p + seen(i)) * scale, seen(i));
        }
        for (int64_t j = 0; j < seen(m - 1); j += 4)
          for (int64_t i = 0; i < m; ++i) {
            if (j + 4 <= seen(i)) {
              mk.axpy4(&z[i * L], latent.row(j), latent.ld, &s[i * ld + j], L);
              continue;
            }
            for (int64_t r = j; r < seen(i); ++r)
              mk.axpy(&z[i * L], latent.row(r), s[i * ld + r], L);
          }
        for (int64_t d = 0; d < Dv; d += 4) {
          int64_t rows = std::min<int64_t>(4, Dv - d);
          dot_rows(mk, part[0], 4, w, base + P + d, rows, 1, z.data(), L, m);
          for (int64_t i = 0; i < m; ++i)
            for (int64_t r = 0; r < rows; ++r)
              o.row((first + i) * N + h)[d + r] = part[i][r] / sum[i];
        }
      }
    }
  });
}

}  // namespace sutor::cpu
