// Micro-kernels for AMX bf16: four accumulator tiles (32 x 32), two A, two B; 1 KB tiles as packed.

#include "engine/cpu/isa/vec16.h"

namespace sutor::cpu {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t colsb[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
// Static and read by asm with a memory clobber: GCC 12's _tile_loadconfig loses stores to a local
// config.
const TileConfig config;

// Half a block or a quarter: what few tokens need.
void part_amx(float* c, const Tiles& a, const Tiles& b, int64_t steps, bool accumulate) {
  bool low = a.lines > 16, right = b.lines > 16;  // at most one of them
  const char *a0 = static_cast<const char*>(a.at), *b0 = static_cast<const char*>(b.at);
  const char* other = low ? a0 + a.half : b0 + b.half;
  float* c1 = low ? c + 512 : c + 16;
  _tile_zero(0);
  _tile_zero(1);
  if (accumulate) {
    _tile_loadd(0, c, 128);
    if (low || right) _tile_loadd(1, c1, 128);
  }
  for (int64_t s = 0; s < steps; ++s) {
    _tile_loadd(4, a0 + s * a.next, a.row);
    _tile_loadd(6, b0 + s * 1024, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (low) {
      _tile_loadd(5, other + s * a.next, a.row);
      _tile_dpbf16ps(1, 5, 6);
    } else if (right) {
      _tile_loadd(7, other + s * 1024, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
  }
  _tile_stored(0, c, 128);
  if (low || right) _tile_stored(1, c1, 128);
  if (!accumulate) clear_rest(c, low ? 32 : 16, right ? 32 : 16);
}

template <bool kFetch>
void whole_amx(float* c, const Tiles& a, const Tiles& b, int64_t steps, bool accumulate) {
  const char *a0 = static_cast<const char*>(a.at), *a1 = a0 + a.half;
  const char *b0 = static_cast<const char*>(b.at), *b1 = b0 + b.half;
  if (accumulate) {
    _tile_loadd(0, c, 128);
    _tile_loadd(1, c + 16, 128);
    _tile_loadd(2, c + 512, 128);
    _tile_loadd(3, c + 528, 128);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t s = 0; s < steps; ++s) {
    if constexpr (kFetch)
      for (int i = 0; i < a.fetch_lines; ++i)
        _mm_prefetch(a.fetch + (s * a.fetch_lines + i) * 64, _MM_HINT_T1);
    _tile_loadd(4, a0 + s * a.next, a.row);
    _tile_loadd(6, b0 + s * 1024, 64);
    _tile_loadd(7, b1 + s * 1024, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a1 + s * a.next, a.row);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, 128);
  _tile_stored(1, c + 16, 128);
  _tile_stored(2, c + 512, 128);
  _tile_stored(3, c + 528, 128);
}

void block_amx(float* c, Tiles a, Tiles b, int64_t steps, bool accumulate) {
  __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
  if (a.lines <= 16 || b.lines <= 16) return part_amx(c, a, b, steps, accumulate);
  if (a.fetch_lines > 0) return whole_amx<true>(c, a, b, steps, accumulate);
  whole_amx<false>(c, a, b, steps, accumulate);
}

}  // namespace

const MicroKernels kAmxKernels = table<Mode::kBF16, Vec16>(block_amx, true);

}  // namespace sutor::cpu
