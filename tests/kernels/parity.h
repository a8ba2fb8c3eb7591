#pragma once
// Parity of the matrix kernels: seeded tensors, the reference's operands in double, distances,
// loops over instruction sets.

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <random>
#include <string>
#include <vector>

#include "engine/backend.h"
#include "engine/cpu/isa.h"
#include "engine/parallel.h"
#include "tests/problems.h"

namespace sutor::parity {

using Doubles = std::vector<double>;
using Complexes = std::vector<std::complex<double>>;

struct Random {
  std::mt19937 engine;
  explicit Random(uint32_t seed = 1) : engine(seed) {}
  // Values in [-1, 1) times scale; rows `pad` elements further apart than needed.
  Tensor tensor(int64_t rows, int64_t cols, DType dtype = DType::F32, float scale = 1,
                int64_t pad = 0) {
    std::uniform_real_distribution<float> u(-scale, scale);
    Tensor t = empty({rows, cols + pad});
    for (int64_t i = 0; i < t.numel(); ++i) t.f32()[i] = u(engine);
    if (dtype == DType::F16) {
      Tensor h = empty(t.shape, dtype);
      for (int64_t i = 0; i < t.numel(); ++i)
        h.as<f16>()[i].bits = std::bit_cast<uint16_t>(static_cast<_Float16>(t.f32()[i]));
      t = h;
    } else if (dtype != DType::F32) {
      t = cast(t, dtype);
    }
    return t.columns(0, cols);
  }
};

inline Doubles doubles(const Tensor& t, bool round = false) {
  Doubles out;
  visit_float(t.dtype, [&](auto s) {
    const auto* p = t.as<decltype(s)>();
    for (int64_t r = 0; r < t.rows(); ++r)
      for (int64_t c = 0; c < t.cols(); ++c) {
        float f = p[r * t.ld + c];
        out.push_back(round ? float(bf16(f)) : f);
      }
  });
  return out;
}

inline Complexes complexes(const Doubles& v) { return {v.begin(), v.end()}; }

// f32: ||got - want|| / ||want||; bf16: 1 - 2 <a,b> / (|a|^2 + |b|^2).
inline double distance(const Doubles& got, const Doubles& want, Compute compute) {
  double d = 0, g = 0, w = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    d += (got[i] - want[i]) * (got[i] - want[i]);
    g += got[i] * got[i];
    w += want[i] * want[i];
  }
  if (got.size() != want.size() || !std::isfinite(d)) return INFINITY;
  if (d == 0) return 0;
  return compute == Compute::kF32 ? std::sqrt(d / std::max(w, 1e-300)) : d / (g + w);
}

inline void expect_close(const Tensor& got, const Doubles& want, Compute compute,
                         const std::string& what) {
  CAPTURE(what);
  CHECK(distance(doubles(got), want, compute) < 1e-5);
}

inline std::vector<float> bits(const Tensor& t) {
  std::vector<float> out;
  for (double d : doubles(t)) out.push_back(static_cast<float>(d));
  return out;
}

// fn(ctx, compute) for every instruction set of this machine, in f32 and bf16.
template <class F>
void for_each_isa(F&& fn) {
  cpu::Isa before = cpu::current_isa();
  for (cpu::Isa isa : cpu::available_isas())
    for (Compute compute : {Compute::kF32, Compute::kBF16}) {
      cpu::override_isa(isa);
      CAPTURE(cpu::name_of(isa));
      CAPTURE(static_cast<int>(compute));
      Ctx ctx{nullptr, compute};
      fn(ctx, compute);
    }
  cpu::override_isa(before);
}

// Runs fn() with 1, 2 and 4 threads: the tensors it returns must be bitwise the same.
template <class F>
void expect_same_for_any_thread_count(F&& fn) {
  int before = num_threads();
  std::vector<std::vector<float>> first;
  for (int threads : {1, 2, 4}) {
    set_num_threads(threads);
    std::vector<Tensor> out = fn();
    for (size_t i = 0; i < out.size(); ++i) {
      if (threads == 1) {
        first.push_back(bits(out[i]));
      } else {
        CHECK(first[i] == bits(out[i]));
      }
    }
  }
  set_num_threads(before);
}

}  // namespace sutor::parity
