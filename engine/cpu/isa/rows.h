#pragma once
// The loops behind engine/cpu/rows.h, written for the vectoriser: no branch inside, 16 independent
// lanes in every sum. Included by one file per instruction set; everything is in an unnamed
// namespace and only headers without shared inline code come in, so that no AVX copy of a function
// can be picked by the linker for a machine without AVX.

#include "engine/cpu/fast_math.h"
#include "engine/cpu/rows_table.h"

namespace sutor::cpu {
namespace {

constexpr int kLanes = 16;

template <class T>
T sum_of(const T (&lane)[kLanes]) {
  T half[8], quarter[4];
  for (int j = 0; j < 8; ++j) half[j] = lane[j] + lane[j + 8];
  for (int j = 0; j < 4; ++j) quarter[j] = half[j] + half[j + 4];
  return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

// Sum over i of value(i) in double.
template <class F>
double lane_sum(int64_t n, F value) {
  double lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lane[j] += value(i + j);
  for (int j = 0; i + j < n; ++j) lane[j] += value(i + j);
  return sum_of(lane);
}

void add(float* y, const float* a, const float* b, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = a[i] + b[i];
}

void axpy(float* y, const float* x, float a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

void scale(float* x, float a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= a;
}

void swiglu(float* y, const float* g, const float* u, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = g[i] * fast_sigmoid(g[i]) * u[i];
}

void swiglu_grad(float* dg, float* du, const float* dy, const float* g, const float* u, int64_t n) {
  if (dg)
    for (int64_t i = 0; i < n; ++i) {
      float s = fast_sigmoid(g[i]);
      dg[i] += dy[i] * u[i] * s * (1.0f + g[i] * (1.0f - s));
    }
  if (du)
    for (int64_t i = 0; i < n; ++i) du[i] += dy[i] * (g[i] * fast_sigmoid(g[i]));
}

void sigmoid(float* y, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = fast_sigmoid(x[i]);
}

float max(const float* x, int64_t n) {
  float lane[kLanes];
  for (float& l : lane) l = -__builtin_inff();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
  for (int j = 0; i + j < n; ++j) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
  float top = lane[0];
  for (float l : lane) top = l > top ? l : top;
  return top;
}

double exp_sum(float* e, const float* x, float shift, int64_t n) {
  if (!e)
    return lane_sum(n, [&](int64_t i) { return static_cast<double>(fast_exp(x[i] - shift)); });
  return lane_sum(n, [&](int64_t i) { return static_cast<double>(e[i] = fast_exp(x[i] - shift)); });
}

double dot(const float* a, const float* b, int64_t n) {
  return lane_sum(n, [&](int64_t i) { return static_cast<double>(a[i]) * b[i]; });
}

double dot3(const float* a, const float* b, const float* c, int64_t n) {
  return lane_sum(n, [&](int64_t i) { return static_cast<double>(a[i]) * b[i] * c[i]; });
}

void norm(float* y, const float* x, const float* w, float r, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * r * w[i];
}

void norm_grad(float* dx, const float* dy, const float* x, const float* w, float r, float c,
               int64_t n) {
  for (int64_t i = 0; i < n; ++i) dx[i] += r * (w[i] * dy[i]) - c * x[i];
}

void mac64(double* acc, const float* a, const float* b, float r, int64_t n) {
  for (int64_t i = 0; i < n; ++i) acc[i] += static_cast<double>(a[i]) * (b[i] * r);
}

template <bool kInterleaved>
void rope_as(float* y, const float* x, const float* c, const float* s, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    float a = x[kInterleaved ? 2 * i : i], b = x[kInterleaved ? 2 * i + 1 : i + half];
    y[i] = a * c[i] - b * s[i];
    y[i + half] = b * c[i] + a * s[i];
  }
}

template <bool kInterleaved>
void rope_grad_as(float* dx, const float* dy, const float* c, const float* s, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    float a = dy[i], b = dy[i + half];
    dx[kInterleaved ? 2 * i : i] += a * c[i] + b * s[i];
    dx[kInterleaved ? 2 * i + 1 : i + half] += b * c[i] - a * s[i];
  }
}

void rope(float* y, const float* x, const float* c, const float* s, int64_t half,
          bool interleaved) {
  (interleaved ? rope_as<true> : rope_as<false>)(y, x, c, s, half);
}

void rope_grad(float* dx, const float* dy, const float* c, const float* s, int64_t half,
               bool interleaved) {
  (interleaved ? rope_grad_as<true> : rope_grad_as<false>)(dx, dy, c, s, half);
}

void adamw(float* w, float* m, float* v, const float* g, const AdamWConstants& constants,
           int64_t n) {
  AdamWConstants k = constants;  // a copy: stores to w must not be seen to change it
  for (int64_t i = 0; i < n; ++i) {
    float d = g[i] * k.grad_scale;
    float mi = m[i] + k.beta1_rest * (d - m[i]);  // torch's lerp
    float vi = k.beta2 * v[i] + k.beta2_rest * d * d;
    m[i] = mi;
    v[i] = vi;
    w[i] = w[i] * k.decay - k.step * mi / (__builtin_sqrtf(vi) / k.root_bias2 + k.eps);
  }
}

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;

// Multiples of it: AVX2 has no product of 64-bit lanes.
struct GoldenTimes {
  uint64_t of[65];
  constexpr GoldenTimes() : of() {
    for (uint64_t g = 0; g < 65; ++g) of[g] = g * kGolden;
  }
};
constexpr GoldenTimes kGoldenTimes;

// The masks of a piece of kGroups * 4 elements first (64-bit lanes), then its elements.
template <bool kAdd, int kGroups>
void dropout_as(float* y, const float* x, const DropoutConstants& k, int64_t first, int64_t n) {
  const uint64_t seed = k.seed;
  const uint32_t threshold = k.threshold;
  const float factor = k.scale;
  uint64_t draw[kGroups + 1];
  float stays[kGroups * 4 + 4];
  for (int64_t i = 0; i < n;) {
    int64_t group = (first + i) / 4, lead = (first + i) % 4,
            m = n - i < kGroups * 4 ? n - i : kGroups * 4;
    const uint64_t start = seed + static_cast<uint64_t>(group + 1) * kGolden;
    for (int g = 0; g <= kGroups; ++g) {  // engine/random.h; written out for the vectoriser
      uint64_t z = start + kGoldenTimes.of[g];
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
      draw[g] = z ^ (z >> 31);
    }
    uint16_t part[kGroups * 4 + 4];  // little-endian, as every x86
    static_assert(sizeof part == sizeof draw);
    __builtin_memcpy(part, draw, sizeof part);
    for (int j = 0; j < kGroups * 4 + 4; ++j) stays[j] = part[j] < threshold ? 0.0f : factor;
    // A dropped element is 0 whatever it was; what stays of a NaN is a NaN.
    for (int64_t j = 0; j < m; ++j) {
      float f = stays[lead + j], v = f == 0.0f ? 0.0f : x[i + j] * f;
      y[i + j] = kAdd ? y[i + j] + v : v;
    }
    i += m;
  }
}

void dropout(float* y, const float* x, const DropoutConstants& k, int64_t first, int64_t n,
             bool add) {
  if (n <= 32)  // a row of a block of products
    (add ? dropout_as<true, 8> : dropout_as<false, 8>)(y, x, k, first, n);
  else
    (add ? dropout_as<true, 64> : dropout_as<false, 64>)(y, x, k, first, n);
}

void gelu(float* y, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    float density;
    y[i] = x[i] * fast_normal(x[i], density);
  }
}

float gelu_grad(float* dx, float* z, const float* x, float weight, int64_t n) {
  float lane[kLanes] = {};
  auto one = [&](int64_t i, int j) {
    float density, below = fast_normal(x[i], density), a = x[i] * below;
    dx[i] = weight * z[i] * (below + x[i] * density);
    lane[j] += z[i] * a;
    z[i] = weight * a;
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) one(i + j, j);
  for (int j = 0; i + j < n; ++j) one(i + j, j);
  return sum_of(lane);
}

void narrow(uint16_t* __restrict y, const float* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const auto u = __builtin_bit_cast(uint32_t, x[i]);
    const uint32_t nan = (u & 0x7fffffffu) > 0x7f800000u ? 0x400000u : 0;
    y[i] = static_cast<uint16_t>(nan ? (u | nan) >> 16 : (u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
}

void widen(float* __restrict y, const uint16_t* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    y[i] = __builtin_bit_cast(float, static_cast<uint32_t>(x[i]) << 16);
}

constexpr RowKernels table(const char* name) {
  return {name,    add,     axpy, scale,     swiglu,    swiglu_grad, sigmoid, max,
          exp_sum, dot,     dot3, norm,      norm_grad, mac64,       rope,    rope_grad,
          adamw,   dropout, gelu, gelu_grad, narrow,    widen};
}

}  // namespace
}  // namespace sutor::cpu
