#pragma once
// Unpacking of quantised blocks, a run of them at a time, by block type (in BlockType's order). The
// loops (engine/cpu/isa/quant.h) are compiled once per instruction set; all give the same bits.
// Like rows_table.h it includes nothing with shared inline code. User: engine/cpu/quant.cpp; test:
// tests/kernels/quant.cpp.

#include <cstdint>

namespace sutor::cpu {

constexpr int kBlockTypes = 8;

struct QuantKernels {
  // y[n * elements] = the weights of n blocks that lie side by side
  void (*to_f32[kBlockTypes])(float* y, const uint8_t* blocks, int64_t n);
  // the same, rounded to bf16
  void (*to_bf16[kBlockTypes])(uint16_t* y, const uint8_t* blocks, int64_t n);
  // out[i * ld_out + r] = row r . x[i] for n_rows <= 4 rows of blocks, `apart` bytes from one to
  // the next, and n_x rows of x; k elements, the weights not rounded (quant_dot.h). What comes
  // `next` bytes after each row is wanted next.
  void (*dot[kBlockTypes])(float* out, int64_t ld_out, const uint8_t* rows, int64_t apart,
                           int64_t next, int64_t n_rows, const float* x, int64_t ldx, int64_t n_x,
                           int64_t k);
};

extern const QuantKernels kQuantPortable, kQuantAvx2, kQuantAvx512;
const QuantKernels& quant_kernels();

}  // namespace sutor::cpu
