// Blocks are independent: rows (or runs of blocks) go to threads; how the blocks of a row become
// F32 or BF16 is engine/cpu/isa/quant.h. NF4 is here. Test: tests/kernels/quant.cpp, tests/nf4.cpp.

#include "engine/quant.h"

#include <algorithm>
#include <bit>
#include <iterator>

#include "engine/cpu/isa.h"
#include "engine/cpu/packed.h"
#include "engine/cpu/quant_table.h"
#include "engine/dry_run.h"
#include "engine/parallel.h"
#include "engine/ref/quant.h"

namespace sutor {
namespace {

constexpr BlockFormat kFormats[] = {
    {BlockType::Q4_0, "Q4_0", ref::Q4_0::kElements, ref::Q4_0::kBytes},
    {BlockType::Q4_1, "Q4_1", ref::Q4_1::kElements, ref::Q4_1::kBytes},
    {BlockType::Q5_0, "Q5_0", ref::Q5_0::kElements, ref::Q5_0::kBytes},
    {BlockType::Q5_1, "Q5_1", ref::Q5_1::kElements, ref::Q5_1::kBytes},
    {BlockType::Q8_0, "Q8_0", ref::Q8_0::kElements, ref::Q8_0::kBytes},
    {BlockType::Q4_K, "Q4_K", ref::Q4_K::kElements, ref::Q4_K::kBytes},
    {BlockType::Q5_K, "Q5_K", ref::Q5_K::kElements, ref::Q5_K::kBytes},
    {BlockType::Q6_K, "Q6_K", ref::Q6_K::kElements, ref::Q6_K::kBytes},
};

static_assert(std::size(kFormats) == cpu::kBlockTypes);
static_assert(static_cast<int>(BlockType::Q6_K) + 1 == cpu::kBlockTypes);

// y: out's elements; kernel: of its type.
template <class T>
void unpack(const Tensor& out, T* y, const std::byte* in, const BlockFormat& f, const int32_t* rows,
            void (*kernel)(T*, const uint8_t*, int64_t)) {
  int64_t C = out.cols(), blocks = C / f.elements;
  parallel_for(out.rows(), std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(1, C)),
               [&](int64_t lo, int64_t hi) {
                 const auto* b = reinterpret_cast<const uint8_t*>(in);
                 for (int64_t r = lo; r < hi; ++r)
                   kernel(y + r * C, b + (rows ? rows[r] : r) * blocks * f.bytes, blocks);
               });
}

constexpr int64_t kGrain = 1 << 10;  // blocks of 64 weights

template <class T>
T rounded(float x) {
  return T(x);
}
template <>
f16 rounded<f16>(float x) {
  return {std::bit_cast<uint16_t>(static_cast<_Float16>(x))};
}

template <class T>
void unpack_nf4_as(const Tensor& out, const Nf4& in) {
  int64_t n = out.numel(), blocks = (n + in.block - 1) / in.block;
  const auto* q = in.packed.as<uint8_t>();
  const float* code = in.code.f32();
  T* y = out.as<T>();
  parallel_for(blocks, kGrain, [&](int64_t lo, int64_t hi) {
    for (int64_t b = lo; b < hi; ++b) {
      float scale = cpu::nf4_absmax(in, b);
      float value[16];
      for (int c = 0; c < 16; ++c) value[c] = code[c] * scale;
      int64_t end = std::min(n, (b + 1) * in.block);
      for (int64_t i = b * in.block; i < end; ++i)
        y[i] = rounded<T>(value[i % 2 == 0 ? q[i / 2] >> 4 : q[i / 2] & 15]);
    }
  });
}

// The nearest of an ascending map; ties go down.
uint8_t nearest(const float (&map)[256], float x) {
  const float* up = std::lower_bound(map, map + 256, x);
  if (up == map) return 0;
  if (up == map + 256) return 255;
  return static_cast<uint8_t>(up - map - (x - up[-1] <= *up - x ? 1 : 0));
}

}  // namespace

const cpu::QuantKernels& cpu::quant_kernels() {
  switch (current_isa()) {
    case Isa::kPortable:
      return kQuantPortable;
    case Isa::kAvx2:
      return kQuantAvx2;
    default:
      return kQuantAvx512;
  }
}

const BlockFormat* block_format(std::string_view name) {
  for (const BlockFormat& f : kFormats)
    if (f.name == name) return &f;
  return nullptr;
}

void unpack_blocks(const Tensor& out, const std::byte* in, BlockType type, const int32_t* rows) {
  int i = static_cast<int>(type);
  const BlockFormat& f = kFormats[i];
  if (out.dtype == DType::F32)
    unpack(out, out.f32(), in, f, rows, cpu::quant_kernels().to_f32[i]);
  else
    unpack(out, &out.as<bf16>()->bits, in, f, rows, cpu::quant_kernels().to_bf16[i]);
}

void unpack_nf4(const Tensor& out, const Nf4& in) {
  visit_float(out.dtype, [&](auto zero) { unpack_nf4_as<decltype(zero)>(out, in); });
}

Tensor nf4_tensor(Nf4 nf4, Shape shape, DType as) {
  auto storage = std::make_shared<Nf4Storage>();
  storage->nf4 = std::move(nf4);
  storage->as = as;
  void* data = storage->nf4.packed.data;
  return wrap(std::move(storage), data, std::move(shape), DType::NF4);
}

Tensor blocks_tensor(std::shared_ptr<Storage> owner, const void* data, const BlockFormat& format,
                     Shape shape, DType as) {
  check(!shape.empty() && shape.back() % format.elements == 0, "{} is not rows of blocks of {}",
        to_string(shape), format.elements);
  auto storage = std::make_shared<BlockStorage>();
  storage->as = as;
  storage->owner = std::move(owner);
  storage->format = &format;
  // Never written: is_packed() tensors are read by kernels and unpacked, no more.
  return wrap(std::move(storage), const_cast<void*>(data), std::move(shape), DType::BLOCKS);
}

const Nf4Storage& nf4_of(const Tensor& t) {
  check(t.dtype == DType::NF4, "a tensor of type {} is not packed as NF4", name_of(t.dtype));
  return static_cast<const Nf4Storage&>(*t.storage);
}

const BlockStorage& blocks_of(const Tensor& t) {
  check(t.dtype == DType::BLOCKS, "a tensor of type {} is not in blocks", name_of(t.dtype));
  return static_cast<const BlockStorage&>(*t.storage);
}

std::string_view type_name(const Tensor& t) {
  return t.dtype == DType::BLOCKS ? blocks_of(t).format->name : name_of(t.dtype);
}

DType float_type(const Tensor& t) {
  return is_packed(t.dtype) ? static_cast<const PackedStorage&>(*t.storage).as : t.dtype;
}

Tensor unpacked(const Tensor& t) { return is_packed(t.dtype) ? cast(t, float_type(t)) : t; }

void unpack(const Tensor& out, const Tensor& packed) {
  if (packed.dtype == DType::NF4) return unpack_nf4(out, nf4_of(packed).nf4);
  unpack_blocks(out, packed.data, blocks_of(packed).format->type);
}

Tensor first_blocks(const Tensor& t, int64_t n) {
  const BlockStorage& b = blocks_of(t);
  const int64_t block = b.format->elements,
                m = (std::min(n, t.numel()) + block - 1) / block * block;
  return unpacked(blocks_tensor(b.owner, t.data, *b.format, {1, m}, b.as));
}

Tensor moved(const Tensor& t, std::shared_ptr<Storage> owner, void* data) {
  if (t.dtype != DType::BLOCKS) return wrap(std::move(owner), data, t.shape, t.dtype);
  return blocks_tensor(std::move(owner), data, *blocks_of(t).format, t.shape, float_type(t));
}

Nf4 pack_nf4(const Tensor& w) {
  Nf4 out;
  int64_t n = w.numel(), blocks = (n + out.block - 1) / out.block,
          groups = (blocks + out.nested_block - 1) / out.nested_block;
  out.packed = empty({(n + 1) / 2, 1}, DType::U8);
  out.code = empty({16});
  out.map = empty({256});
  out.scale = empty({groups});
  out.absmax = empty({blocks}, DType::U8);
  if (dry_run()) return out;
  const Tensor values = unpacked(w.contiguous() ? w : clone(w));
  std::copy(std::begin(ref::kNf4), std::end(ref::kNf4), out.code.f32());
  Tensor absmax = empty({blocks});
  auto* q = out.packed.as<uint8_t>();
  visit_float(values.dtype, [&](auto zero) {
    const auto* from = values.as<decltype(zero)>();
    parallel_for(blocks, kGrain, [&](int64_t lo, int64_t hi) {
      std::vector<float> x(static_cast<size_t>(out.block));
      for (int64_t b = lo; b < hi; ++b) {
        const int64_t begin = b * out.block, count = std::min(n - begin, out.block);
        for (int64_t i = 0; i < count; ++i) x[i] = static_cast<float>(from[begin + i]);
        float top = 0, odd = 0;  // odd: NaN where an element is NaN or Inf, which max may lose
        for (int64_t i = 0; i < count; ++i) {
          top = std::max(top, std::abs(x[i]));
          odd += x[i] * 0.0f;
        }
        absmax.f32()[b] = top + odd;
        // bitsandbytes multiplies by the inverse, and divides in a last block that is not whole. An
        // all-zero block: code 7, which is 0.
        float inverse = top > 0 ? 1.0f / top : 0.0f;
        bool whole = count == out.block;
        auto code = [&](float v) {
          return ref::nf4_code(top == 0 ? 0.0f : whole ? v * inverse : v / top);
        };
        for (int64_t i = 0; i < count; i += 2) {
          uint8_t first = code(x[i]), second = i + 1 < count ? code(x[i + 1]) : uint8_t{7};
          q[(begin + i) / 2] = static_cast<uint8_t>(first << 4 | second);
        }
      }
    });
  });
  // The maxima, less their mean, in blocks of 256. The mean of any NaN is NaN: callers ask it.
  double sum = 0;
  for (int64_t b = 0; b < blocks; ++b) sum += absmax.f32()[b];
  out.offset = blocks > 0 ? static_cast<float>(sum / static_cast<double>(blocks)) : 0;
  float map[256];
  ref::dynamic_map(map);
  std::copy(std::begin(map), std::end(map), out.map.f32());
  for (int64_t g = 0; g < groups; ++g) {
    int64_t lo = g * out.nested_block, hi = std::min(blocks, lo + out.nested_block);
    float top = 0;
    for (int64_t b = lo; b < hi; ++b) top = std::max(top, std::abs(absmax.f32()[b] - out.offset));
    out.scale.f32()[g] = top;
    float inverse = top > 0 ? 1.0f / top : 0.0f;
    for (int64_t b = lo; b < hi; ++b)
      out.absmax.as<uint8_t>()[b] = nearest(map, (absmax.f32()[b] - out.offset) * inverse);
  }
  return out;
}

}  // namespace sutor
