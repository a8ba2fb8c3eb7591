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

void block_amx(float* c, const void* a, const void* b, int64_t steps, bool accumulate) {
  __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
  const char *a0 = static_cast<const char*>(a), *a1 = a0 + steps * 1024;
  const char *b0 = static_cast<const char*>(b), *b1 = b0 + steps * 1024;
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
    _tile_loadd(4, a0 + s * 1024, 64);
    _tile_loadd(6, b0 + s * 1024, 64);
    _tile_loadd(7, b1 + s * 1024, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a1 + s * 1024, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, 128);
  _tile_stored(1, c + 16, 128);
  _tile_stored(2, c + 512, 128);
  _tile_stored(3, c + 528, 128);
}

}  // namespace

const MicroKernels kAmxKernels = table<Mode::kBF16, Vec16>(block_amx);

}  // namespace sutor::cpu
