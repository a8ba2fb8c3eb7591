#pragma once
// Packed weights (NF4, GGUF's blocks) inside the matrix kernels: what a product is about to read is
// unpacked into scratch, a few rows at a time, never a whole weight. Values are those of unpack().
// Storage: engine/quant.h; test: tests/kernels/packed.cpp.

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
Rows packed_rows(const MicroKernels& mk, const Tensor& w, int64_t row, int64_t n, int64_t col,
                 int64_t cols, void* to);

// mk.dot() with n_rows <= 4 rows of a packed weight, `apart` rows from one to the next. Those of
// blocks, and of NF4 where rows are whole blocks, are not rounded to bf16 on the way, unless there
// are more than kDecodeTokens tokens, which lie as mk.pack_few() leaves them. `to`: as above, for
// whole rows.
void packed_dot(const MicroKernels& mk, float* out, int64_t ld_out, const Tensor& w, int64_t row,
                int64_t n_rows, int64_t apart, const float* x, int64_t ldx, int64_t n_x, void* to);

}  // namespace sutor::cpu
