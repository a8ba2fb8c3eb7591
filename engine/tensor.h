#pragma once
// A typed view of memory: rows may be strided (`ld` elements apart), columns are contiguous; a
// transpose is a flag of `linear`.
//
// Glossary, used everywhere: T tokens, H hidden size, I expert (intermediate) width, E experts, K
// top-k, N heads, D head dim, V vocabulary, R ranks; gradients are `d` + name.

#include <array>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "engine/dtype.h"
#include "engine/error.h"

namespace sutor {

// Whoever owns the bytes: the heap (large blocks: huge pages), a mapped file. Views keep it alive.
struct Storage {
  virtual ~Storage() = default;
  virtual bool mapped() const { return false; }  // from a file that stays as it is
};

using Shape = std::vector<int64_t>;
int64_t numel_of(const Shape& shape);
std::string to_string(const Shape& shape);

struct Tensor {
  std::shared_ptr<Storage> storage;
  std::byte* data = nullptr;
  Shape shape;
  int64_t ld = 0;  // elements between rows (the last dim is a row)
  DType dtype = DType::F32;

  // False: "not wanted" (an output) or "absent" (an input).
  explicit operator bool() const { return data != nullptr; }

  int64_t numel() const { return numel_of(shape); }
  // Of packed weights: of their codes (BLOCKS: with the scales, which lie among them).
  int64_t nbytes() const { return is_packed(dtype) ? packed_bytes() : numel() * size_of(dtype); }
  int64_t dim(int i) const { return shape[i < 0 ? shape.size() + i : i]; }
  int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  int64_t rows() const { return cols() == 0 ? 0 : numel() / cols(); }
  bool contiguous() const { return ld == cols() || rows() <= 1; }

  // Typed pointer to the first element; throws when the dtype differs.
  template <class T>
  T* as() const {
    if (dtype != dtype_of<T>())
        [[unlikely]]  // not check(): its arguments would be built on every call
      fail("tensor {} is {}, asked for as {}", to_string(shape), name_of(dtype),
           name_of(dtype_of<T>()));
    return reinterpret_cast<T*>(data);
  }
  float* f32() const { return as<float>(); }
  int32_t* i32() const { return as<int32_t>(); }
  float* row(int64_t r) const { return as<float>() + r * ld; }

  Tensor view(
      Shape shape) const;  // same elements, other shape; contiguous, or the last dim unchanged
  Tensor slice(int64_t lo, int64_t hi) const;    // rows lo..hi of dim 0
  Tensor columns(int64_t lo, int64_t hi) const;  // column window, same ld

 private:
  int64_t packed_bytes() const;
};

Tensor empty(
    Shape shape,
    DType dtype = DType::F32);  // 64-byte aligned, uninitialised, counted in memory_stats()
Tensor zeros(Shape shape, DType dtype = DType::F32);
Tensor empty_like(const Tensor& t);
Tensor cast(const Tensor& t, DType dtype);  // contiguous copy in another floating type
Tensor clone(const Tensor& t);              // contiguous copy
void copy_into(
    const Tensor& dst,
    const Tensor& src);  // floating types convert (bf16 rounds to nearest even); equal numel

// A view over caller-owned or storage-owned bytes.
Tensor wrap(std::shared_ptr<Storage> storage, void* data, Shape shape, DType dtype);

// Tells the system that a view of a mapped file is not needed for now: its pages are read again
// when touched. Nothing happens to a tensor on the heap.
void forget_pages(const Tensor& t);

// Bytes of heap tensors alive now and at the most.
struct MemoryStats {
  int64_t live = 0, peak = 0;
};
MemoryStats memory_stats();
void reset_memory_peak();

// Calls fn(T{}) with the C++ type of a floating weight dtype: the only dtype switch.
template <class F>
decltype(auto) visit_float(DType t, F&& fn) {
  switch (t) {
    case DType::F32:
      return fn(float{});
    case DType::BF16:
      return fn(bf16{});
    case DType::F16:
      return fn(f16{});
    default:
      fail("weights of type {} are not supported (F32, BF16, F16)", name_of(t));
  }
}

}  // namespace sutor
