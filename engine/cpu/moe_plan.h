#pragma once
// How moe_ffn and adapter, forward and backward, cut their work: token panels of 32 that never
// cross experts, units of (expert, weight panels).

#include <algorithm>

#include "engine/cpu/gemm.h"
#include "engine/cpu/rows.h"

namespace sutor::cpu {

struct MoeUnit {
  int32_t expert;
  int32_t first, count;  // weight panels of 32 lines
};

struct MoePlan {
  int64_t tokens, hidden, inter, experts, top_k, active = 0;
  std::vector<int64_t> panel;  // [E+1] token panels before expert e
  std::vector<int32_t> token;  // [T*K] sorted position -> token
  const MoeIndex* index;

  // x [T,H]; `inter` is what an expert maps it to; `table` experts have weights.
  MoePlan(const char* who, const Tensor& x, const MoeIndex& ix, int64_t inter, size_t table)
      : tokens(x.rows()),
        hidden(x.cols()),
        inter(inter),
        experts(static_cast<int64_t>(ix.offset.size()) - 1),
        top_k(ix.top_k),
        panel(ix.offset.size()),
        token(ix.pair.size()),
        index(&ix) {
    check(static_cast<int64_t>(table) == experts &&
              static_cast<int64_t>(ix.pair.size()) == tokens * top_k,
          "{}: {} experts and {} pairs in the index, {} in the table, {} tokens of top {}", who,
          experts, ix.pair.size(), table, tokens, top_k);
    for (int64_t e = 0; e < experts; ++e) {
      panel[e + 1] = panel[e] + panels_of(count(e));
      active += count(e) > 0;
    }
    for (size_t i = 0; i < token.size(); ++i) token[i] = ix.pair[i] / ix.top_k;
  }

  MoePlan(const Tensor& x, const MoeIndex& ix, const ExpertWeights& w)
      : MoePlan("moe_ffn", x, ix, w.gate.empty() ? 0 : w.gate[0].dim(0), w.gate.size()) {
    check(w.up.size() == w.gate.size() && w.down.size() == w.gate.size(),
          "moe_ffn: {} experts have gate, {} up, {} down", w.gate.size(), w.up.size(),
          w.down.size());
    for (int64_t e = 0; e < experts; ++e)
      if (w.gate[e].dim(0) != inter || w.gate[e].cols() != hidden ||
          w.up[e].shape != w.gate[e].shape || w.down[e].dim(0) != hidden ||
          w.down[e].cols() != inter)
          [[unlikely]]  // not check(): its arguments would be built for every expert
        fail("moe_ffn: expert {}: gate {}, up {}, down {} for hidden size {}", e,
             to_string(w.gate[e].shape), to_string(w.up[e].shape), to_string(w.down[e].shape),
             hidden);
  }

  MoePlan(const Tensor& x, const MoeIndex& ix, const AdapterWeights& w)
      : MoePlan("adapter", x, ix, w.down.empty() ? 0 : w.down[0].dim(0), w.down.size()) {
    check(w.up.size() == w.down.size(), "adapter: {} experts have down, {} up", w.down.size(),
          w.up.size());
    for (int64_t e = 0; e < experts; ++e)
      if (w.down[e].dim(0) != inter || w.down[e].cols() != hidden || w.up[e].dim(0) != hidden ||
          w.up[e].cols() != inter) [[unlikely]]
        fail("adapter: expert {}: down {}, up {} for hidden size {} and width {}", e,
             to_string(w.down[e].shape), to_string(w.up[e].shape), hidden, inter);
  }

  int64_t first(int64_t e) const { return index->offset[e]; }
  int64_t count(int64_t e) const { return index->offset[e + 1] - index->offset[e]; }
  int64_t panels() const { return panel.back(); }

  // Calls fn(expert, token panel, its first sorted position, its tokens) for every token panel, in
  // parallel.
  template <class F>
  void for_panels(F&& fn) const {
    std::vector<int32_t> owner(panels());
    for (int64_t e = 0; e < experts; ++e)
      std::fill(&owner[0] + panel[e], &owner[0] + panel[e + 1], e);
    parallel_for(panels(), 1, [&](int64_t lo, int64_t hi) {
      for (int64_t t = lo; t < hi; ++t) {
        int64_t e = owner[t], done = (t - panel[e]) * 32;
        fn(e, t, first(e) + done, std::min<int64_t>(32, count(e) - done));
      }
    });
  }

  // Units of at most `group` of the `lines` weight lines of every active expert that `want`
  // accepts.
  template <class F>
  std::vector<MoeUnit> units(int64_t lines, int64_t group, F&& want) const {
    std::vector<MoeUnit> out;
    for (int32_t e = 0; e < experts; ++e)
      for (int64_t p = 0; count(e) > 0 && want(e) && p < panels_of(lines); p += group)
        out.push_back({e, static_cast<int32_t>(p),
                       static_cast<int32_t>(std::min(group, panels_of(lines) - p))});
    return out;
  }
};

inline int64_t line_width(int64_t panel, int64_t lines) {
  return std::min<int64_t>(32, lines - panel * 32);
}

// Operands of the weight gradients: per trainable expert, panels of `lines` with P = its tokens.
struct Transposed {
  Tensor memory;
  int64_t line_panels;
  const std::vector<int64_t>* before;  // [E+1] steps of trainable experts before e
  Transposed(int64_t lines, const std::vector<int64_t>& steps)
      : line_panels(panels_of(lines)), before(&steps) {
    memory = empty({line_panels * steps.back() * 2048}, DType::U8);
  }
  int64_t steps(int64_t e) const { return (*before)[e + 1] - (*before)[e]; }
  char* at(int64_t e, int64_t panel) const {
    return reinterpret_cast<char*>(memory.data) +
           ((*before)[e] * line_panels + panel * steps(e)) * 2048;
  }
};

// Kept pre-activations (F32 or BF16): n elements of row r from column c on.
inline void keep_row(const Tensor& kept, int64_t r, int64_t c, const float* from, int64_t n) {
  if (kept.dtype == DType::BF16)
    row_kernels().narrow(&kept.as<bf16>()[r * kept.ld + c].bits, from, n);
  else
    std::copy_n(from, n, kept.row(r) + c);
}
inline void kept_row(float* to, const Tensor& kept, int64_t r, int64_t c, int64_t n) {
  if (kept.dtype == DType::BF16)
    row_kernels().widen(to, &kept.as<bf16>()[r * kept.ld + c].bits, n);
  else
    std::copy_n(kept.row(r) + c, n, to);
}

inline Rows block_rows(const float* c) { return {c, DType::F32, 32, nullptr}; }

// `work`: multiply-adds of all units together.
template <class F>
void for_units(const std::vector<MoeUnit>& units, int64_t work, F&& fn) {
  int64_t n = static_cast<int64_t>(units.size());
  parallel_for(n, grain_of(work / std::max<int64_t>(1, n)), [&](int64_t lo, int64_t hi) {
    for (int64_t i = lo; i < hi; ++i) fn(units[i]);
  });
}

// y[t] (+)= sum over k, in this order, of weight[t,k] * rows[where[t,k]] (weight may be empty: 1).
inline void combine_rows(const MicroKernels& mk, const Tensor& y, const Tensor& rows,
                         const Tensor& weight, const int32_t* where, int64_t top_k, bool add) {
  parallel_for(y.rows(), 8, [&](int64_t lo, int64_t hi) {
    for (int64_t t = lo; t < hi; ++t) {
      if (!add) std::fill_n(y.row(t), y.cols(), 0.0f);
      for (int64_t k = 0; k < top_k; ++k)
        mk.axpy(y.row(t), rows.row(where[t * top_k + k]), weight ? weight.row(t)[k] : 1.0f,
                y.cols());
    }
  });
}
inline void moe_combine(const MicroKernels& mk, const MoePlan& plan, const Tensor& y,
                        const Tensor& rows, const Tensor& weight, bool add) {
  combine_rows(mk, y, rows, weight, plan.index->where.data(), plan.top_k, add);
}

}  // namespace sutor::cpu
