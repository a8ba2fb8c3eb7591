#include "engine/bench.h"

#include <algorithm>
#include <cmath>

#include "engine/bench_timing.h"

namespace sutor {
using namespace timing;
namespace {

constexpr int64_t kHidden = 2048, kWidth = 1408, kTopK = 6;

constexpr int64_t kAdapters = 8, kAdapterWidth = 512, kAdapterTopK = 2;  // Camelidae's

struct Layer {
  ExpertWeights w;
  AdapterWeights adapters;
  Tensor head;  // [8 * kWidth, kHidden], for linear
  explicit Layer(int64_t experts)
      : w(made_experts(experts, kHidden, kWidth)),
        head(made({8 * kWidth, kHidden}, DType::BF16, 7)) {
    for (int64_t e = 0; e < kAdapters; ++e) {
      adapters.down.push_back(made({kAdapterWidth, kHidden}, DType::BF16, e * 2));
      adapters.up.push_back(made({kHidden, kAdapterWidth}, DType::BF16, e * 2 + 1));
    }
  }
};

}  // namespace

std::vector<KernelTiming> time_kernels(Ctx& ctx, bool small, int repeats,
                                       const std::function<void(const KernelTiming&)>& done) {
  int64_t experts = small ? 8 : 64;
  Layer layer(experts);
  std::vector<KernelTiming> rows;
  auto add = [&](KernelTiming row) {
    rows.push_back(std::move(row));
    done(rows.back());
  };
  {  // one dense product, each of its three apart
    const int64_t T = 1024, N = 2816;
    Tensor w = made({N, kHidden}, DType::BF16, 3), x = made({T, kHidden}, DType::F32, 1),
           y = empty({T, N}), dy = made({T, N}, DType::F32, 2), dx = zeros(x.shape),
           dw = zeros(w.shape);
    KernelTiming row{"dense forward", fmt::format("{} -> {}", kHidden, N), T, 0, 0, 0};
    row.flop = 2 * static_cast<double>(T * w.numel());
    row.bytes = static_cast<double>(w.nbytes());
    row.seconds = median_seconds(repeats, [&] { ctx.k->linear_fwd(ctx, y, x, w, {}); });
    add(row);
    row.kernel = "dense dx";
    row.seconds = median_seconds(repeats, [&] { ctx.k->linear_bwd(ctx, dx, {}, {}, dy, x, w); });
    add(row);
    row.kernel = "dense dw";
    row.bytes = static_cast<double>(dw.nbytes());
    row.seconds = median_seconds(repeats, [&] { ctx.k->linear_bwd(ctx, {}, dw, {}, dy, x, w); });
    add(row);
  }
  for (int64_t T : {1, 16, 128, 512, 2048}) {
    Tensor x = made({T, kHidden}, DType::F32, 1);
    double tokens = static_cast<double>(T);
    {
      int64_t n = layer.head.dim(0);
      Tensor y = empty({T, n}), dy = made({T, n}, DType::F32, 2), dx = zeros({T, kHidden});
      KernelTiming row{"linear", fmt::format("{} -> {}", kHidden, n), T, 0, 0, 0};
      row.flop = 2 * tokens * static_cast<double>(layer.head.numel());
      row.bytes = static_cast<double>(layer.head.nbytes());
      row.seconds = median_seconds(repeats, [&] { ctx.k->linear_fwd(ctx, y, x, layer.head, {}); });
      add(row);
      if (T > 1) {
        row.kernel = "linear, forward + dx";
        row.flop *= 2;
        row.bytes *= 2;
        row.seconds = median_seconds(repeats, [&] {
          ctx.k->linear_fwd(ctx, y, x, layer.head, {});
          ctx.k->linear_bwd(ctx, dx, {}, {}, dy, x, layer.head);
        });
        add(row);
      }
    }
    int64_t pairs = T * kTopK, active = 0;
    MoeIndex index = sort_by_expert(spread_experts(T, experts, kTopK), static_cast<int>(experts));
    for (int64_t e = 0; e < experts; ++e) active += index.offset[e + 1] > index.offset[e];
    Tensor y = empty({T, kHidden}), weight = made({T, kTopK}, DType::F32, 4);
    Tensor gate = empty({pairs, kWidth}, kept_type(ctx.compute)), up = empty_like(gate);
    Tensor dy = made({T, kHidden}, DType::F32, 5), dx = zeros({T, kHidden});
    KernelTiming row{
        "moe_ffn", fmt::format("{} x {}, {} of {}", kHidden, kWidth, kTopK, experts), T, 0, 0, 0};
    row.flop = 6 * static_cast<double>(pairs * kHidden * kWidth);
    row.bytes = 6.0 * static_cast<double>(active * kHidden * kWidth);
    row.seconds = median_seconds(
        repeats, [&] { ctx.k->moe_ffn_fwd(ctx, y, {}, {}, x, weight, index, layer.w); });
    add(row);
    if (T > 1) {
      row.kernel = "moe_ffn, forward + dx";
      row.flop *= 2;
      row.bytes *= 2;
      row.seconds = median_seconds(repeats, [&] {
        ctx.k->moe_ffn_fwd(ctx, y, gate, up, x, weight, index, layer.w);
        ctx.k->moe_ffn_bwd(ctx, dx, {}, nullptr, dy, x, weight, gate, up, index, layer.w);
      });
      add(row);
    }
    pairs = T * kAdapterTopK;
    index = sort_by_expert(spread_experts(T, kAdapters, kAdapterTopK), kAdapters);
    weight = made({T, kAdapterTopK}, DType::F32, 4);
    row = {"adapter",
           fmt::format("{} x {}, {} of {}", kHidden, kAdapterWidth, kAdapterTopK, kAdapters),
           T,
           0,
           0,
           0};
    row.flop = 4 * static_cast<double>(pairs * kHidden * kAdapterWidth);
    row.bytes = 4.0 * static_cast<double>(std::min(kAdapters, pairs) * kHidden * kAdapterWidth);
    row.seconds = median_seconds(repeats, [&] {
      ctx.k->adapter_fwd(ctx, y, {}, x, weight, index, layer.adapters, 0.25f, {});
    });
    add(row);
    if (T > 1) {
      Tensor low = empty({pairs, kAdapterWidth});
      row.kernel = "adapter, forward + dx";
      row.flop *= 2;
      row.bytes *= 2;
      row.seconds = median_seconds(repeats, [&] {
        ctx.k->adapter_fwd(ctx, y, low, x, weight, index, layer.adapters, 0.25f, {});
        ctx.k->adapter_bwd(ctx, dx, {}, nullptr, dy, x, weight, low, index, layer.adapters, 0.25f,
                           {});
      });
      add(row);
    }
  }
  return rows;
}

std::vector<LayerTiming> time_layer(Ctx& ctx, const LayerSizes& sizes, int repeats,
                                    const std::function<void(const LayerTiming&)>& done) {
  const int64_t H = sizes.hidden, I = sizes.width, experts = sizes.experts;
  ExpertWeights w = made_experts(experts, H, I);
  std::vector<LayerTiming> rows;
  auto add = [&](LayerTiming row) {
    rows.push_back(row);
    done(row);
  };
  for (int64_t T : sizes.tokens) {
    MoeIndex index = sort_by_expert(spread_experts(T, experts, kTopK), static_cast<int>(experts));
    Tensor x = made({T, H}, DType::F32, 1), weight = made({T, kTopK}, DType::F32, 4),
           y = empty({T, H}), gate = empty({T * kTopK, I}, kept_type(ctx.compute)),
           up = empty_like(gate), dy = made({T, H}, DType::F32, 5), dx = zeros({T, H}),
           dweight = zeros({T, kTopK});
    const double forward = 6 * static_cast<double>(T * kTopK * H * I);
    LayerTiming row{T};
    row.flop = forward;
    row.seconds =
        median_seconds(repeats, [&] { ctx.k->moe_ffn_fwd(ctx, y, {}, {}, x, weight, index, w); });
    add(row);
    row.backward = true;
    for (double share : sizes.shares) {
      auto n = static_cast<int64_t>(std::lround(share * static_cast<double>(experts)));
      if (n == 0 && share > 0) continue;  // of few experts
      ExpertWeights dw;
      for (int64_t e = 0; e < experts; ++e) {
        const bool trains = e < n;
        dw.gate.push_back(trains ? zeros({I, H}) : Tensor{});
        dw.up.push_back(trains ? zeros({I, H}) : Tensor{});
        dw.down.push_back(trains ? zeros({H, I}) : Tensor{});
      }
      row.share = static_cast<double>(n) / static_cast<double>(experts);
      row.flop = forward * (2 + row.share);
      row.seconds = median_seconds(repeats, [&] {
        ctx.k->moe_ffn_fwd(ctx, y, gate, up, x, weight, index, w);
        ctx.k->moe_ffn_bwd(ctx, dx, dweight, &dw, dy, x, weight, gate, up, index, w);
      });
      add(row);
    }
  }
  return rows;
}

}  // namespace sutor
