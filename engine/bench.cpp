#include "engine/bench.h"

#include <algorithm>
#include <chrono>

#include "engine/parallel.h"

namespace sutor {
namespace {

constexpr int64_t kHidden = 2048, kWidth = 1408, kTopK = 6;

// Reproducible values in (-1, 1), the same whatever the thread count.
void fill(const Tensor& t, uint64_t seed) {
  parallel_for(t.numel(), 1 << 16, [&](int64_t lo, int64_t hi) {
    for (int64_t i = lo; i < hi; ++i) {
      uint64_t z = (static_cast<uint64_t>(i) + seed) * 0x9e3779b97f4a7c15;
      z = (z ^ (z >> 29)) * 0xbf58476d1ce4e5b9;
      float f = static_cast<float>(static_cast<int64_t>(z >> 40) - (1 << 23)) * 0x1p-23f;
      if (t.dtype == DType::F32)
        t.f32()[i] = f;
      else
        t.as<bf16>()[i] = bf16(f * 0.05f);
    }
  });
}

Tensor made(Shape shape, DType dtype, uint64_t seed) {
  Tensor t = empty(std::move(shape), dtype);
  fill(t, seed);
  return t;
}

double median_seconds(int repeats, const std::function<void()>& fn) {
  std::vector<double> all;
  fn();  // pages, packing buffers, threads
  for (int i = 0; i < repeats; ++i) {
    auto begin = std::chrono::steady_clock::now();
    fn();
    all.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::nth_element(all.begin(), all.begin() + repeats / 2, all.end());
  return all[repeats / 2];
}

constexpr int64_t kAdapters = 8, kAdapterWidth = 512, kAdapterTopK = 2;  // Camelidae's

struct Layer {
  ExpertWeights w;
  AdapterWeights adapters;
  Tensor head;  // [8 * kWidth, kHidden], for linear
  explicit Layer(int64_t experts) : head(made({8 * kWidth, kHidden}, DType::BF16, 7)) {
    for (int64_t e = 0; e < experts; ++e) {
      w.gate.push_back(made({kWidth, kHidden}, DType::BF16, e * 3));
      w.up.push_back(made({kWidth, kHidden}, DType::BF16, e * 3 + 1));
      w.down.push_back(made({kHidden, kWidth}, DType::BF16, e * 3 + 2));
    }
    for (int64_t e = 0; e < kAdapters; ++e) {
      adapters.down.push_back(made({kAdapterWidth, kHidden}, DType::BF16, e * 2));
      adapters.up.push_back(made({kHidden, kAdapterWidth}, DType::BF16, e * 2 + 1));
    }
  }
};

// Token t's experts are t, t+7, t+14, ...: even load, as a balanced router gives.
Tensor spread_experts(int64_t tokens, int64_t experts, int64_t top_k) {
  Tensor t = empty({tokens, top_k}, DType::I32);
  for (int64_t p = 0; p < t.numel(); ++p)
    t.i32()[p] = static_cast<int32_t>((p / top_k + p % top_k * 7) % experts);
  return t;
}

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
  for (int64_t T : {1, 16, 128, 1024}) {
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
    int64_t pairs = T * kTopK, active = std::min(experts, pairs);
    MoeIndex index = sort_by_expert(spread_experts(T, experts, kTopK), static_cast<int>(experts));
    Tensor y = empty({T, kHidden}), weight = made({T, kTopK}, DType::F32, 4);
    Tensor gate = empty({pairs, kWidth}), up = empty({pairs, kWidth});
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

}  // namespace sutor
