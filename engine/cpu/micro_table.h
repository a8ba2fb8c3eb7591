#pragma once
// The table of micro-kernels that every instruction set fills (engine/cpu/isa/). Like rows_table.h
// it includes nothing with shared inline code: an AVX copy of such a function could be the one the
// linker keeps, and crash a machine without AVX.
//
// A GEMM works on panels: 32 lines (rows of A or columns of B) by P. A panel is [2 halves][steps]
// tiles of 1024 bytes; a tile is 16 x 16 words of 32 bits, a word one f32 or two consecutive bf16
// along P (so a step is 16 or 32 of P). A tiles are [16 lines][16 words], B tiles [16 words][16
// lines]: for bf16 exactly what AMX and vdpbf16ps want. Everything past the edge is 0. Instances:
// engine/cpu/isa/*.cpp; users: engine/cpu/gemm.h; test: tests/kernels/linear.cpp.

#include "engine/dtype.h"

namespace sutor::cpu {

// What panels are packed from: rows of `ld` elements; row i is data[index[i]] when an index is
// given.
struct Rows {
  const void* data = nullptr;
  DType dtype = DType::F32;
  int64_t ld = 0;
  const int32_t* index = nullptr;
};

// A run of tiles of a panel: `half` bytes lie between the tiles of its first 16 lines and those of
// the others; only the first `lines` of its 32 are wanted (the rest is 0).
struct Tiles {
  const void* at;
  int64_t half;
  int lines = 32;
  // Bytes from line to line and from tile to tile: as packed, or of rows of bf16 as they lie, which
  // block() of a table with `reads_rows` takes as A, whole halves of them.
  int64_t row = 64, next = 1024;
  // Memory that is wanted next, for such an A: so many cache lines are fetched with every tile.
  const char* fetch = nullptr;
  int fetch_lines = 0;
};

// Cache lines that are wanted next: `lines` a row, from `at` and `line` on, `row` bytes from row to
// row; 0 lines: none.
struct Fetch {
  const char* at = nullptr;
  int64_t row = 0;
  int lines = 0, line = 0;
  int64_t due = 0;  // the kernel's
};

struct MicroKernels {
  int step;          // elements of P in a tile
  bool rounds;       // operands are rounded to bf16
  bool reads_rows;   // block() takes rows of bf16 as they lie for A
  int few;           // up to so many tokens few_dots() is faster than block(); 0: never
  int lanes, group;  // of pack_few()
  // c[32][32] = (accumulate ? c : 0) + A B over `steps` tiles; rows and columns past the lines
  // wanted are 0, or left as they are when accumulating. Terms are added in the order of P: cutting
  // P in runs that accumulate changes no bit.
  void (*block)(float* c, Tiles a, Tiles b, int64_t steps, bool accumulate);
  // The same to the bit, where B is 32 columns of `rows` rows as they lie; null where words are
  // pairs. As many cache lines are fetched as B has.
  void (*block_rows)(float* c, Tiles a, const Rows& b, int64_t rows, bool accumulate,
                     const Fetch& fetch);
  // Tiles [s0, s1) of the panel whose lines are source rows first..first+n, P = source columns
  // 0..p.
  void (*pack_along)(char* panel, const Rows& src, int64_t first, int64_t n, int64_t p, int64_t s0,
                     int64_t s1, int64_t steps, bool is_b);
  // The same where lines are source columns first..first+n and P runs over source rows 0..p.
  void (*pack_across)(char* panel, const Rows& src, int64_t first, int64_t n, int64_t p, int64_t s0,
                      int64_t s1, int64_t steps, bool is_b);
  // y[j][i] = c[i][j] + bias[i] for i < rows, j < cols (bias may be null)
  void (*store_t)(float* y, int64_t ld, const float* c, int64_t rows, int64_t cols,
                  const float* bias);
  // y[i][j] (+)= c[i][j]
  void (*store)(float* y, int64_t ld, const float* c, int64_t rows, int64_t cols, bool add);
  // out[m][r] = <w row r, x row m> for r < 4, m < n_x <= 4: the decode path. What comes `next`
  // elements after each row is wanted next.
  void (*dot)(float* out, int64_t ld_out, const Rows& w, int64_t row, int64_t n_rows,
              const float* x, int64_t ldx, int64_t n_x, int64_t k, int64_t next);
  // Tokens first..first+n of f32 rows for few_dots(), rounded where operands are: groups of M <=
  // `group` tokens, each [k / lanes][M][lanes] words, the last of a row filled up.
  void (*pack_few)(float* to, const Rows& src, int64_t first, int64_t n, int64_t k);
  // dot() with n_x packed tokens; the same to the bit.
  void (*few_dots)(float* out, int64_t ld_out, const Rows& w, int64_t row, int64_t n_rows,
                   const float* x, int64_t n_x, int64_t k, int64_t next);
  // out[2i], out[2i + 1] = bf16(code[high nibble of byte i] * scale), of the low nibble
  void (*nf4)(bf16* out, const uint8_t* bytes, int64_t n, const float* code, float scale);
  // out[m][r] = <row r, x row m> for n_rows <= 4 rows of NF4 codes, `apart` bytes from one to the
  // next, of blocks of 64 (k is whole blocks) with scales[r][k / 64]; the weights are not rounded
  void (*nf4_dot)(float* out, int64_t ld_out, const uint8_t* codes, int64_t apart, int64_t n_rows,
                  const float* scales, const float* code, const float* x, int64_t ldx, int64_t n_x,
                  int64_t k);
  void (*swiglu)(float* a, const float* g, const float* u, int64_t n);  // a = silu(g) u
  // z = dL/da before the gate weight; overwrites g, u with their gradients, z with weight * a;
  // returns <z, a>
  float (*swiglu_grad)(float* z, float* g, float* u, float weight, int64_t n);
  void (*axpy)(float* y, const float* x, float a, int64_t n);  // y += a x
  // The same of four rows of x, one after the other, to the bit; y is read and written once.
  void (*axpy4)(float* y, const float* x, int64_t ldx, const float* a, int64_t n);
  float (*exp_sum)(float* s, float scale, float shift,
                   int64_t n);  // s = exp(s * scale - shift); returns the sum
};

// One per file of engine/cpu/isa; [0] f32, [1] f32 on operands rounded to bf16.
extern const MicroKernels kPortableKernels[2], kAvx2Kernels[2], kAvx512Kernels[2];
extern const MicroKernels kAvx512Bf16Kernels, kAmxKernels;

}  // namespace sutor::cpu
