#pragma once
// RoPE: the pair (a, b) of row r, token r / heads, becomes (a cos - b sin, b cos + a sin) at places
// (i, i + D/2) of y. The pair sits at (i, i + D/2) of x, or interleaved at (2i, 2i + 1). Backward
// rotates by -theta and puts the pair back where it came from. Source: arXiv 2104.09864;
// rotate_half of the LLaMA model file; apply_rotary_pos_emb of modeling_deepseek.py (interleaved).
// Kernel: engine/cpu/rope.cpp; test: tests/kernels/rope.cpp.

#include <cstdint>

namespace sutor::ref {

template <class T>
void rope_fwd(T* y, const T* x, const T* cos, const T* sin, int64_t rows, int64_t heads,
              int64_t dim, bool interleaved) {
  int64_t half = dim / 2;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < half; ++i) {
      T a = x[r * dim + (interleaved ? 2 * i : i)],
        b = x[r * dim + (interleaved ? 2 * i + 1 : i + half)];
      T c = cos[r / heads * half + i], s = sin[r / heads * half + i];
      y[r * dim + i] = a * c - b * s;
      y[r * dim + i + half] = b * c + a * s;
    }
}

template <class T>
void rope_bwd(T* dx, const T* dy, const T* cos, const T* sin, int64_t rows, int64_t heads,
              int64_t dim, bool interleaved) {
  int64_t half = dim / 2;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < half; ++i) {
      T a = dy[r * dim + i], b = dy[r * dim + i + half];
      T c = cos[r / heads * half + i], s = sin[r / heads * half + i];
      dx[r * dim + (interleaved ? 2 * i : i)] += a * c + b * s;
      dx[r * dim + (interleaved ? 2 * i + 1 : i + half)] += b * c - a * s;
    }
}

}  // namespace sutor::ref
