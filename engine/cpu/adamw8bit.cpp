// One AdamW step with moments in 8 bits: a block of 256 is widened, stepped by the loop of
// engine/cpu/optim.cpp and stored again. The code of a value is found without a search: the upper
// sixteen bits of its magnitude (exponent and seven bits of the mantissa) give the interval it lies
// in, which holds at most one boundary between codes. The master of a bf16 value may be an F32
// tensor, or I16: what it has beyond the value. Specification: engine/ref/adamw8bit.h; test:
// tests/kernels/adamw8bit.cpp.
#include "engine/ref/adamw8bit.h"

#include <bit>

#include "engine/cpu/adamw.h"

namespace sutor::cpu {
namespace {

class Codes {
 public:
  explicit Codes(bool is_signed) {
    ref::dynamic_map(map_, is_signed);
    for (int i = 0; i < 255; ++i) bound_[i] = (map_[i] + map_[i + 1]) / 2;
    bound_[255] = INFINITY;
    for (int32_t i = 0; i < kIntervals; ++i) {
      float lo = i == 0 ? 0.0f : edge(i), hi = edge(i + 1);
      positive_[i] = below(lo);
      negative_[i] = static_cast<uint8_t>(std::upper_bound(bound_, bound_ + 255, -hi) - bound_);
      check(below(hi) - positive_[i] <= 1 && below(-lo) - negative_[i] <= 1,
            "adamw8bit: two boundaries between {} and {}", lo, hi);
    }
  }
  float value(uint8_t code) const { return map_[code]; }
  uint8_t nearest(float x) const {  // in [-1, 1]
    auto bits = std::bit_cast<uint32_t>(x);
    int32_t i = std::clamp(static_cast<int32_t>(bits >> 16 & 0x7fff) - kFirst, 0, kIntervals - 1);
    uint8_t low = (bits >> 31 ? negative_ : positive_)[i];
    return static_cast<uint8_t>(low + (x > bound_[low]));
  }

 private:
  // Magnitudes from 2^-24, which lies far below the smallest boundary, to 1 and what follows it.
  static constexpr int32_t kFirst = (127 - 24) << 7, kIntervals = (127 << 7) + 1 - kFirst;
  static float edge(int32_t i) {
    return std::bit_cast<float>(static_cast<uint32_t>(kFirst + i) << 16);
  }
  uint8_t below(float x) const {  // boundaries
    return static_cast<uint8_t>(std::lower_bound(bound_, bound_ + 255, x) - bound_);
  }

  float map_[256], bound_[256];
  uint8_t positive_[kIntervals], negative_[kIntervals];
};

float store(uint8_t* code, const float* x, int64_t n, const Codes& codes) {
  float scale = 0;
  for (int64_t i = 0; i < n; ++i) scale = std::max(scale, std::abs(x[i]));
  float inverse = scale < 1.2e-38f ? 0 : 1 / scale;  // no denormals: threads flush them
  for (int64_t i = 0; i < n; ++i) code[i] = codes.nearest(x[i] * inverse);
  return scale;
}

// A float32 master in the bits of its bf16 rounding and a signed 16-bit rest. Exact but where the
// master lies halfway between two bf16 values and the lower one is the even one: the rest would be
// 2^15, and the master loses one unit in its last place.
float joined(bf16 value, int16_t rest) {
  return std::bit_cast<float>((static_cast<uint32_t>(value.bits) << 16) +
                              static_cast<uint32_t>(static_cast<int32_t>(rest)));
}
int16_t rest_of(float master, bf16 value) {
  auto rest = static_cast<int32_t>(std::bit_cast<uint32_t>(master) -
                                   (static_cast<uint32_t>(value.bits) << 16));
  return static_cast<int16_t>(std::min(rest, 32767));
}

}  // namespace

void adamw8bit_step(Ctx&, Tensor value, Tensor master, Tensor m, Tensor v, Tensor m_scale,
                    Tensor v_scale, Tensor grad, AdamWStep s) {
  static const Codes of_m(true), of_v(false);
  bf16* out = adamw_rounded(value, master, m, v, grad);
  constexpr int64_t kBlock = ref::kMomentBlock;
  int64_t n = master.numel(), blocks = (n + kBlock - 1) / kBlock;
  check(m_scale.numel() == blocks && v_scale.numel() == blocks,
        "adamw: {} with {} and {} scales of moments, {} expected", to_string(master.shape),
        m_scale.numel(), v_scale.numel(), blocks);
  AdamWConstants c = adamw_constants(s);
  const RowKernels& k = row_kernels();
  auto *mc = m.as<uint8_t>(), *vc = v.as<uint8_t>();
  float *ms = m_scale.f32(), *vs = v_scale.f32();
  auto* rest = master.dtype == DType::I16 ? master.as<int16_t>() : nullptr;
  check(rest == nullptr || out != nullptr, "adamw: the rest of a master needs a BF16 value");
  const float* g = grad.f32();
  parallel_for(blocks, 64, [&](int64_t from, int64_t to) {
    float wide_w[kBlock], wide_m[kBlock], wide_v[kBlock];
    for (int64_t b = from; b < to; ++b) {
      int64_t lo = b * kBlock, count = std::min(kBlock, n - lo);
      for (int64_t i = 0; i < count; ++i) {
        wide_m[i] = of_m.value(mc[lo + i]) * ms[b];
        wide_v[i] = of_v.value(vc[lo + i]) * vs[b];
      }
      float* w = rest ? wide_w : master.f32() + lo;
      for (int64_t i = 0; rest && i < count; ++i) w[i] = joined(out[lo + i], rest[lo + i]);
      k.adamw(w, wide_m, wide_v, g + lo, c, count);
      ms[b] = store(mc + lo, wide_m, count, of_m);
      vs[b] = store(vc + lo, wide_v, count, of_v);
      for (int64_t i = 0; out && i < count; ++i) out[lo + i] = bf16(w[i]);
      for (int64_t i = 0; rest && i < count; ++i) rest[lo + i] = rest_of(w[i], out[lo + i]);
    }
  });
}

}  // namespace sutor::cpu
