#include "engine/bench_timing.h"

#include <algorithm>
#include <chrono>

#include "engine/parallel.h"

namespace sutor::timing {
namespace {

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

double seconds(const std::function<void()>& fn) {
  auto begin = std::chrono::steady_clock::now();
  fn();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

Tensor made(Shape shape, DType dtype, uint64_t seed) {
  Tensor t = empty(std::move(shape), dtype);
  fill(t, seed);
  return t;
}

double median(std::vector<double> all) {
  std::nth_element(all.begin(), all.begin() + static_cast<int64_t>(all.size() / 2), all.end());
  return all[all.size() / 2];
}

double median_seconds(int repeats, const std::function<void()>& fn) {
  std::vector<double> all;
  fn();
  for (int i = 0; i < repeats; ++i) all.push_back(seconds(fn));
  return median(std::move(all));
}

std::pair<double, double> median_seconds(int repeats, const std::function<void()>& a,
                                         const std::function<void()>& b) {
  std::vector<double> of_a, of_b;
  a();
  b();
  for (int i = 0; i < repeats; ++i) {
    of_a.push_back(seconds(a));
    of_b.push_back(seconds(b));
  }
  return {median(std::move(of_a)), median(std::move(of_b))};
}

Tensor spread_experts(int64_t tokens, int64_t experts, int64_t top_k) {
  Tensor t = empty({tokens, top_k}, DType::I32);
  for (int64_t p = 0; p < t.numel(); ++p)
    t.i32()[p] = static_cast<int32_t>((p / top_k + p % top_k * 7) % experts);
  return t;
}

ExpertWeights made_experts(int64_t experts, int64_t hidden, int64_t width) {
  ExpertWeights w;
  // One block, as weights moved to huge pages lie.
  Tensor all = empty({experts * 3 * width, hidden}, DType::BF16);
  uint64_t seed = 0;
  for (int64_t e = 0; e < experts; ++e)
    for (auto* table : {&w.gate, &w.up, &w.down}) {
      Tensor t =
          all.slice(static_cast<int64_t>(seed) * width, static_cast<int64_t>(seed + 1) * width);
      fill(t, seed++);
      table->push_back(table == &w.down ? t.view({hidden, width}) : t);
    }
  return w;
}

}  // namespace sutor::timing
