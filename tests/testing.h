#pragma once
// What kernel tests share: seeded tensors (also strided and bf16), copies in another scalar type,
// relative error, gradients by complex step, and "the same bits for every thread count and
// instruction set".

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "engine/backend.h"
#include "engine/cpu/isa.h"
#include "engine/parallel.h"

namespace sutor::test {

using Complex = std::complex<double>;
using Doubles = std::vector<double>;

// splitmix64: the same numbers on every machine.
struct Random {
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-52 - 1; }  // [-1, 1)
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
};

// Uniform in [-scale, scale), rows `pad` elements apart (the gap holds NaN, so that who reads it
// shows).
inline Tensor random(Shape shape, uint64_t seed, double scale = 1, DType dtype = DType::F32,
                     int64_t pad = 0) {
  Random r{seed};
  Shape wide = shape;
  wide.back() += pad;
  Tensor t = empty(wide);
  std::fill_n(t.f32(), t.numel(), NAN);
  t = t.columns(0, shape.back());
  for (int64_t i = 0; i < t.rows(); ++i)
    for (int64_t j = 0; j < t.cols(); ++j) t.row(i)[j] = static_cast<float>(scale * r.uniform());
  if (dtype == DType::F32) return t;
  check(pad == 0, "random: padded tensors are F32");
  return cast(t, dtype);
}

inline Tensor ints(Shape shape, std::initializer_list<int32_t> values) {
  Tensor t = empty(std::move(shape), DType::I32);
  std::copy(values.begin(), values.end(), t.i32());
  return t;
}

// The elements of a tensor of any floating type, rows packed; empty for an absent tensor.
template <class S = double>
std::vector<S> dense(const Tensor& t) {
  std::vector<S> v;
  if (!t) return v;
  v.reserve(t.numel());
  visit_float(t.dtype, [&](auto zero) {
    const auto* p = t.as<decltype(zero)>();
    for (int64_t r = 0; r < t.rows(); ++r)
      for (int64_t c = 0; c < t.cols(); ++c)
        v.push_back(S(static_cast<double>(static_cast<float>(p[r * t.ld + c]))));
  });
  return v;
}

template <class S>
S* ptr(std::vector<S>& v) {
  return v.empty() ? nullptr : v.data();
}

// max |a - b| / max |b|; infinite for another length or a NaN on one side only.
inline double relative_error(const Doubles& a, const Doubles& b) {
  if (a.size() != b.size()) return INFINITY;
  double diff = 0, top = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    if (std::isnan(a[i]) != std::isnan(b[i])) return INFINITY;
    if (std::isnan(b[i])) continue;
    diff = std::max(diff, std::abs(a[i] - b[i]));
    top = std::max(top, std::abs(b[i]));
  }
  return top == 0 ? diff : diff / top;
}

// The same of two tensors; infinite for a NaN on either side too: what whole models give.
inline double relative_max(const Tensor& got, const Tensor& want) {
  Doubles a = dense(got), b = dense(want);
  for (const Doubles* v : {&a, &b})
    if (std::any_of(v->begin(), v->end(), [](double x) { return std::isnan(x); })) return INFINITY;
  return relative_error(a, b);
}

// Relative error at most `tolerance`, reported by value: CHECK(near(dense(y), want)).
struct Near {
  double error, tolerance;
  explicit operator bool() const { return error <= tolerance; }
  friend doctest::String toString(const Near& n) {
    return fmt::format("relative error {:.3g} (at most {:.1g})", n.error, n.tolerance).c_str();
  }
};
inline Near near(const Doubles& got, const Doubles& want, double tolerance = 1e-5) {
  return {relative_error(got, want), tolerance};
}

inline Doubles sum(Doubles a, const Doubles& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

// d/dx <seed, f(x)> by complex step, Im <seed, f(x + i h e_j)> / h: no cancellation, so h may be
// tiny. f returns its outputs as one vector as long as `seed`.
inline Doubles complex_step(
    const Doubles& x, const Doubles& seed,
    const std::function<std::vector<Complex>(const std::vector<Complex>&)>& f) {
  constexpr double h = 1e-20;
  std::vector<Complex> z(x.begin(), x.end());
  Doubles d(x.size());
  for (size_t j = 0; j < x.size(); ++j) {
    z[j] = {x[j], h};
    std::vector<Complex> y = f(z);
    REQUIRE(y.size() == seed.size());
    for (size_t i = 0; i < y.size(); ++i) d[j] += seed[i] * y[i].imag() / h;
    z[j] = x[j];
  }
  return d;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (a.shape != b.shape || a.dtype != b.dtype) return false;
  int64_t row = a.cols() * size_of(a.dtype);
  for (int64_t r = 0; r < a.rows(); ++r)
    if (std::memcmp(a.data + r * a.ld * size_of(a.dtype), b.data + r * b.ld * size_of(b.dtype),
                    row) != 0)
      return false;
  return true;
}

// Runs `make`, which returns fresh outputs, with 1, 2, 3 and 5 threads on every instruction set of
// this machine, and checks that all outputs have the same bits: for kernels on row_kernels() only,
// matrix products differ between instruction sets.
inline void check_bitwise(const std::function<std::vector<Tensor>()>& make) {
  struct Restore {
    int threads = num_threads();
    cpu::Isa isa = cpu::current_isa();
    ~Restore() {
      set_num_threads(threads);
      cpu::override_isa(isa);
    }
  } restore;
  std::vector<Tensor> first;
  for (cpu::Isa isa : cpu::available_isas())
    for (int threads : {1, 2, 3, 5}) {
      CAPTURE(cpu::name_of(isa));
      CAPTURE(threads);
      cpu::override_isa(isa);
      set_num_threads(threads);
      std::vector<Tensor> out = make();
      if (first.empty()) first = out;
      REQUIRE(out.size() == first.size());
      for (size_t i = 0; i < out.size(); ++i) {
        CAPTURE(i);
        CHECK(same_bits(out[i], first[i]));
      }
    }
}

}  // namespace sutor::test
