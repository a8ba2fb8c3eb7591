#include "engine/cpu/packed.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/cpu/gemm.h"
#include "engine/cpu/quant_table.h"

namespace sutor::cpu {
namespace {

// Codes of elements [from, from + n), which lie in one block and start and end between bytes.
void expand(const MicroKernels& mk, const Nf4Storage& w, float scale, const uint8_t* codes,
            int64_t n, bf16* out) {
  mk.nf4(out, codes, n / 2, w.nf4.code.f32(), scale);
}
void expand(const MicroKernels&, const Nf4Storage& w, float scale, const uint8_t* codes, int64_t n,
            float* out) {
  float value[16];
  for (int c = 0; c < 16; ++c) {
    value[c] = w.nf4.code.f32()[c] * scale;
    if (w.as == DType::F16) value[c] = static_cast<float>(static_cast<_Float16>(value[c]));
  }
  for (int64_t i = 0; i < n; i += 2) {
    out[i] = value[codes[i / 2] >> 4];
    out[i + 1] = value[codes[i / 2] & 15];
  }
}

// Elements [from, from + n) of the flat weight.
template <class T>
void run(const MicroKernels& mk, const Nf4Storage& w, int64_t from, int64_t n, T* out) {
  const auto* codes = w.nf4.packed.as<uint8_t>();
  int64_t bytes = w.nf4.packed.numel();
  for (int64_t end = from + n; from < end;) {
    int64_t block = from / w.nf4.block, stop = std::min(end, (block + 1) * w.nf4.block);
    float scale = nf4_absmax(w.nf4, block);
    constexpr int64_t kPiece = 64;
    for (; from < stop;) {
      int64_t m = std::min(kPiece, stop - from);
      if (from % 2 == 0 && m % 2 == 0) {
        expand(mk, w, scale, codes + from / 2, m, out);
      } else {  // an end inside a byte
        T piece[kPiece + 2];
        int64_t first = from / 2, last = std::min(bytes, (from + m + 1) / 2);
        expand(mk, w, scale, codes + first, 2 * (last - first), piece);
        std::memcpy(static_cast<void*>(out), piece + from % 2, m * sizeof(T));
      }
      from += m;
      out += m;
    }
  }
}

template <class T>
Rows unpack(const MicroKernels& mk, const Nf4Storage& w, int64_t width, int64_t row, int64_t n,
            int64_t col, int64_t cols, void* to) {
  T* out = static_cast<T*>(to);
  if (cols == width) {
    run(mk, w, row * width, n * width, out);
  } else {
    for (int64_t r = 0; r < n; ++r) run(mk, w, (row + r) * width + col, cols, out + r * cols);
  }
  return {to, dtype_of<T>(), cols, nullptr};
}

// The scales of runs [first, first + n) of 64 weights; a block is one run or more.
void nf4_scales(const Nf4& w, int64_t first, int64_t n, float* to) {
  if (w.block != 64 || w.absmax.dtype != DType::U8) {
    for (int64_t i = 0; i < n; ++i) to[i] = nf4_absmax(w, (first + i) * 64 / w.block);
    return;
  }
  const auto* code = w.absmax.as<uint8_t>() + first;
  const float* map = w.map.f32();
  for (int64_t i = 0; i < n;) {  // as far as the next nested block
    const int64_t nested = (first + i) / w.nested_block,
                  end = std::min(n, (nested + 1) * w.nested_block - first);
    const float scale = w.scale.f32()[nested];
    for (; i < end; ++i) to[i] = map[code[i]] * scale + w.offset;
  }
}

// Weights of `n` blocks side by side.
void blocks(const BlockStorage& w, const uint8_t* from, int64_t n, bf16* to) {
  quant_kernels().to_bf16[static_cast<int>(w.format->type)](&to->bits, from, n);
}
void blocks(const BlockStorage& w, const uint8_t* from, int64_t n, float* to) {
  quant_kernels().to_f32[static_cast<int>(w.format->type)](to, from, n);
}

// Columns [col, col + cols) of a row of blocks; a window may begin and end inside one.
template <class T>
void window(const BlockStorage& w, const uint8_t* row, int64_t col, int64_t cols, T* to) {
  const int64_t size = w.format->elements, bytes = w.format->bytes, end = col + cols;
  T one[256];
  while (col < end) {
    const int64_t block = col / size, inside = col % size;
    if (inside == 0 && end - col >= size) {
      const int64_t whole = (end - col) / size;
      blocks(w, row + block * bytes, whole, to);
      col += whole * size;
      to += whole * size;
      continue;
    }
    const int64_t n = std::min(size - inside, end - col);
    blocks(w, row + block * bytes, 1, one);
    std::memcpy(static_cast<void*>(to), one + inside, n * sizeof(T));
    col += n;
    to += n;
  }
}

template <class T>
Rows unpack_window(const Tensor& w, int64_t row, int64_t n, int64_t col, int64_t cols, void* to) {
  const BlockStorage& b = blocks_of(w);
  const int64_t row_bytes = w.cols() / b.format->elements * b.format->bytes;
  const auto* from = reinterpret_cast<const uint8_t*>(w.data) + row * row_bytes;
  T* out = static_cast<T*>(to);
  for (int64_t r = 0; r < n; ++r) window(b, from + r * row_bytes, col, cols, out + r * cols);
  return {to, dtype_of<T>(), cols, nullptr};
}

}  // namespace

Rows packed_rows(const MicroKernels& mk, const Tensor& w, int64_t row, int64_t n, int64_t col,
                 int64_t cols, void* to) {
  const bool narrow = float_type(w) == DType::BF16;
  if (w.dtype == DType::BLOCKS)
    return narrow ? unpack_window<bf16>(w, row, n, col, cols, to)
                  : unpack_window<float>(w, row, n, col, cols, to);
  const Nf4Storage& nf4 = nf4_of(w);
  return narrow ? unpack<bf16>(mk, nf4, w.cols(), row, n, col, cols, to)
                : unpack<float>(mk, nf4, w.cols(), row, n, col, cols, to);
}

void packed_dot(const MicroKernels& mk, float* out, int64_t ld_out, const Tensor& w, int64_t row,
                int64_t n_rows, int64_t apart, const float* x, int64_t ldx, int64_t n_x, void* to) {
  const int64_t k = w.cols();
  const bool few = n_x > kDecodeTokens;
  if (w.dtype == DType::BLOCKS && !few) {
    const BlockFormat& f = *blocks_of(w).format;
    const int64_t row_bytes = k / f.elements * f.bytes;
    const auto* rows = reinterpret_cast<const uint8_t*>(w.data) + row * row_bytes;
    return quant_kernels().dot[static_cast<int>(f.type)](out, ld_out, rows, apart * row_bytes,
                                                         apart == 1 ? 4 * row_bytes : row_bytes,
                                                         n_rows, x, ldx, n_x, k);
  }
  if (w.dtype == DType::NF4 && !few && k % 64 == 0 && nf4_of(w).nf4.block % 64 == 0 &&
      nf4_of(w).as != DType::F16) {
    const Nf4Storage& nf4 = nf4_of(w);
    auto* scales = static_cast<float*>(to);
    const int64_t blocks = k / 64;
    for (int64_t r = 0; r < n_rows; ++r)
      nf4_scales(nf4.nf4, (row + r * apart) * blocks, blocks, scales + r * blocks);
    return mk.nf4_dot(out, ld_out, nf4.nf4.packed.as<uint8_t>() + row * k / 2, apart * k / 2,
                      n_rows, scales, nf4.nf4.code.f32(), x, ldx, n_x, k);
  }
  const int64_t bytes = k * size_of(float_type(w) == DType::BF16 ? DType::BF16 : DType::F32);
  Rows rows = packed_rows(mk, w, row, 1, 0, k, to);
  for (int64_t r = 1; r < n_rows; ++r)
    packed_rows(mk, w, row + r * apart, 1, 0, k, static_cast<char*>(to) + r * bytes);
  if (few)
    mk.few_dots(out, ld_out, rows, 0, n_rows, x, n_x, k, 0);
  else
    mk.dot(out, ld_out, rows, 0, n_rows, x, ldx, n_x, k, 0);
}

}  // namespace sutor::cpu
