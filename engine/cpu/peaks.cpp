// Peaks by the micro-kernels themselves: a 32 KB panel against itself stays in L1; the decode
// path's dot product for reading.

#include "engine/cpu/peaks.h"

#include <chrono>
#include <random>

#include "engine/cpu/gemm.h"

namespace sutor::cpu {
namespace {

double best_seconds(int times, const auto& fn) {
  double best = 1e30;
  for (int i = 0; i < times; ++i) {
    auto start = std::chrono::steady_clock::now();
    fn();
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

double gemm_peak(const MicroKernels& mk) {
  constexpr int64_t kSteps = 16, kCalls = 2000;
  std::mt19937 engine(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  Tensor x = empty({32, kSteps * mk.step});
  for (int64_t i = 0; i < x.numel(); ++i) x.f32()[i] = uniform(engine);
  Panels p = make_panels(mk, 1, x.cols());
  mk.pack_along(p.at(0), rows_of(x), 0, 32, x.cols(), 0, kSteps, kSteps, false);
  int64_t threads = num_threads();
  double t = best_seconds(5, [&] {
    parallel_for(threads, 1, [&](int64_t lo, int64_t hi) {
      alignas(64) float c[1024];
      for (int64_t i = lo * kCalls; i < hi * kCalls; ++i)
        mk.block(c, tiles(p.at(0), kSteps), tiles(p.at(0), kSteps), kSteps, false);
    });
  });
  return 2e-9 * 32 * 32 * static_cast<double>(kSteps * mk.step * kCalls * threads) / t;
}

}  // namespace

double measure_gflops(Compute compute) { return gemm_peak(micro_kernels(compute)); }

Peaks measure_peaks() {
  constexpr int64_t kRows = 32768, kCols = 8192;  // 1 GiB of f32: more than a shared L3
  const MicroKernels& f32 = micro_kernels(Compute::kF32);
  Peaks peaks{gemm_peak(micro_kernels(Compute::kBF16)), gemm_peak(f32), 0};
  Tensor memory = zeros({kRows, kCols}), x = zeros({kCols});
  double t = best_seconds(3, [&] {
    parallel_for(kRows / 4, 64, [&](int64_t lo, int64_t hi) {
      float out[4];
      for (int64_t r = lo; r < hi; ++r)
        f32.dot(out, 4, rows_of(memory), r * 4, 4, x.f32(), kCols, 1, kCols, 4 * kCols);
    });
  });
  peaks.read_gbps = 1e-9 * static_cast<double>(memory.nbytes()) / t;
  return peaks;
}

}  // namespace sutor::cpu
