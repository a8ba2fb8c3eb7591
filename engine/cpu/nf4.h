#pragma once
// NF4 weights inside the matrix kernels: what a product is about to read is unpacked into scratch,
// a few rows at a time, never a whole weight. Values are those of unpack_nf4(). Storage:
// engine/quant.h; test: tests/kernels/nf4.cpp.

#include "engine/cpu/isa.h"
#include "engine/quant.h"

namespace sutor::cpu {

// The largest magnitude of a block, by which its codes are multiplied.
inline float nf4_absmax(const Nf4& w, int64_t block) {
  if (w.absmax.dtype != DType::U8) return w.absmax.f32()[block];
  return w.map.f32()[w.absmax.as<uint8_t>()[block]] * w.scale.f32()[block / w.nested_block] +
         w.offset;
}

// Rows [row, row + n), columns [col, col + cols) of a packed weight, unpacked into `to`, which has
// room for n * cols floats; row 0 of the result is row `row`.
Rows nf4_rows(const MicroKernels& mk, const Nf4Storage& w, int64_t width, int64_t row, int64_t n,
              int64_t col, int64_t cols, void* to);

}  // namespace sutor::cpu
