#pragma once
// Element types and the bf16/f16 storage types. Names follow safetensors (F32, BF16, I64, ...). No
// include with shared inline code: the files compiled for one instruction set read this.

#include <bit>
#include <cstdint>
#include <string_view>

namespace sutor {

// NF4, BLOCKS: packed weights with their scales (engine/quant.h; BLOCKS: GGUF's types), read by the
// matrix kernels and the embedding alone.
enum class DType : uint8_t { F32, BF16, F16, F64, I64, I32, I16, I8, U8, BOOL, NF4, BLOCKS };
constexpr bool is_packed(DType t) { return t == DType::NF4 || t == DType::BLOCKS; }

constexpr int64_t size_of(DType t) {
  switch (t) {
    case DType::F64:
    case DType::I64:
      return 8;
    case DType::F32:
    case DType::I32:
      return 4;
    case DType::BF16:
    case DType::F16:
    case DType::I16:
      return 2;
    default:
      return 1;
  }
}

constexpr std::string_view name_of(DType t) {
  constexpr std::string_view names[] = {"F32", "BF16", "F16", "F64",  "I64", "I32",
                                        "I16", "I8",   "U8",  "BOOL", "NF4", "BLOCKS"};
  return names[static_cast<int>(t)];
}

// bfloat16 storage. Conversion from float rounds to nearest even; NaN stays NaN.
struct bf16 {
  uint16_t bits;
  bf16() = default;
  explicit bf16(float f) {
    uint32_t u = std::bit_cast<uint32_t>(f);
    bits = (u & 0x7fffffff) > 0x7f800000
               ? static_cast<uint16_t>((u >> 16) | 0x40)
               : static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
  operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

// IEEE half storage.
struct f16 {
  uint16_t bits;
  operator float() const { return static_cast<float>(std::bit_cast<_Float16>(bits)); }
};

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<int16_t>() {
  return DType::I16;
}
template <>
constexpr DType dtype_of<float>() {
  return DType::F32;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::F64;
}
template <>
constexpr DType dtype_of<bf16>() {
  return DType::BF16;
}
template <>
constexpr DType dtype_of<f16>() {
  return DType::F16;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::I64;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::I32;
}
template <>
constexpr DType dtype_of<uint8_t>() {
  return DType::U8;
}

}  // namespace sutor
