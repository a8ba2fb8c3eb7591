#pragma once
// Packed weights to tensors and back, on all threads. The formats: engine/ref/quant.h.

#include <string_view>

#include "engine/tensor.h"

namespace sutor {

enum class BlockType { Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K };

struct BlockFormat {
  BlockType type;
  std::string_view name;
  int64_t elements, bytes;  // of a block
};
const BlockFormat* block_format(std::string_view name);  // null: not one of them

// out[R,C] (F32 or BF16, contiguous; C a whole number of blocks) from R rows of blocks. Row r comes
// from row rows[r] when `rows` is given. F32 is what ggml computes, bit for bit.
void unpack_blocks(const Tensor& out, const std::byte* in, BlockType type,
                   const int32_t* rows = nullptr);

// bitsandbytes' NF4: packed[n/2] two codes a byte, the first in the high nibble; absmax of blocks
// of 64, F32, or double quantised: U8 codes into map[256], times scale[block/256], plus offset.
struct Nf4 {
  Tensor packed;  // U8
  Tensor absmax;  // U8 or F32 [blocks]
  Tensor map;     // F32 [256], of a U8 absmax
  Tensor scale;   // F32 [blocks/256]
  Tensor code;    // F32 [16]
  float offset = 0;
  int64_t block = 64, nested_block = 256;
};
void unpack_nf4(const Tensor& out, const Nf4& in);  // F32, BF16 or F16

// A weight that stays packed: dtype NF4 or BLOCKS, the values those of `as` (NF4: what bitsandbytes
// unpacks it to, F32, BF16 or F16; BLOCKS: F32 or BF16). cast() unpacks; the matrix kernels unpack
// what they are about to use (engine/cpu/packed.h).
struct PackedStorage : Storage {
  DType as = DType::BF16;
};
struct Nf4Storage : PackedStorage {
  Nf4 nf4;
};
struct BlockStorage : PackedStorage {
  std::shared_ptr<Storage> owner;  // of the bytes at the tensor's data
  const BlockFormat* format = nullptr;
  bool mapped() const override { return owner->mapped(); }
};
Tensor nf4_tensor(Nf4 nf4, Shape shape, DType as);
// [R,C] whose rows are whole blocks (else an error) at `data`, one after the other; not copied.
Tensor blocks_tensor(std::shared_ptr<Storage> owner, const void* data, const BlockFormat& format,
                     Shape shape, DType as);
const Nf4Storage& nf4_of(const Tensor& t);
const BlockStorage& blocks_of(const Tensor& t);

// Of any tensor: the type that it is or stands for; it itself or what it stands for.
DType float_type(const Tensor& t);
Tensor unpacked(const Tensor& t);
void unpack(const Tensor& out, const Tensor& packed);  // out: of float_type(packed), contiguous
Tensor first_blocks(const Tensor& t, int64_t n);       // of BLOCKS, unpacked: [1,m], m >= n
// The same weight at another place, where its nbytes() have been copied; BLOCKS alone of the
// packed.
Tensor moved(const Tensor& t, std::shared_ptr<Storage> owner, void* data);
std::string_view type_name(const Tensor& t);  // BLOCKS: the format's
Nf4 pack_nf4(const Tensor& w);                // double quantised

}  // namespace sutor
