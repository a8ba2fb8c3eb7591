#include "engine/cpu/nf4.h"

#include <algorithm>
#include <bit>
#include <cstring>

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

}  // namespace

Rows nf4_rows(const MicroKernels& mk, const Nf4Storage& w, int64_t width, int64_t row, int64_t n,
              int64_t col, int64_t cols, void* to) {
  return w.as == DType::BF16 ? unpack<bf16>(mk, w, width, row, n, col, cols, to)
                             : unpack<float>(mk, w, width, row, n, col, cols, to);
}

}  // namespace sutor::cpu
