#include "engine/tensor.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/dry_run.h"
#include "engine/quant.h"

namespace sutor {
namespace {

std::atomic<int64_t> live_bytes{0}, peak_bytes{0};

void count(int64_t bytes) {
  int64_t now = live_bytes += bytes;
  int64_t peak = peak_bytes.load();
  while (now > peak && !peak_bytes.compare_exchange_weak(peak, now)) {
  }
}

thread_local bool dry = false;

// Pages that come into being only when touched, whatever the size.
struct DryStorage : Storage {
  void* data;
  int64_t bytes;
  explicit DryStorage(int64_t n) : bytes(n) {
    data = mmap(nullptr, std::max<int64_t>(n, 1), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) fail("no address space for {} bytes", n);
    count(bytes);
  }
  ~DryStorage() override {
    munmap(data, std::max<int64_t>(bytes, 1));
    count(-bytes);
  }
};
constexpr int64_t kDryBytes = 1 << 16;  // smaller ones are real

// Blocks of 256 KiB and more come from the system and go back to it; from 4 MiB on, on 2 MiB
// boundaries, in huge pages. (glibc 2.36 finds no place for an aligned block in the hole that the
// same block left: a run grows step by step.) What is freed is kept for the next of about the same
// size, as layers and steps repeat each other's; fresh pages would have to be cleared.
constexpr int64_t kLarge = 256 << 10, kHuge = 2 << 20, kAligned = 2 * kHuge;

class LargeBlocks {
 public:
  // Memory of at least `bytes`, which becomes what it really has.
  void* take(int64_t& bytes) {
    {
      std::lock_guard lock(mutex_);
      auto best = kept_.end();
      for (auto i = kept_.begin(); i != kept_.end(); ++i)
        if (i->mapped >= bytes && i->mapped <= bytes + bytes / 8 &&
            (best == kept_.end() || i->mapped <= best->mapped))
          best = i;
      if (best != kept_.end()) {
        void* p = best->data;
        bytes = best->mapped;
        total_ -= best->asked;
        kept_.erase(best);
        return p;
      }
    }
    release(allowed(bytes));
    int64_t more = bytes >= kAligned ? kHuge : 0;
    void* all = map(bytes + more);
    if (all == MAP_FAILED) {  // what is kept may be what is missing
      release(0);
      all = map(bytes + more);
    }
    if (all == MAP_FAILED) return nullptr;
    if (more == 0) return all;
    auto first = reinterpret_cast<uintptr_t>(all), last = first + bytes + kHuge,
         begin = (first + kHuge - 1) / kHuge * kHuge, end = begin + bytes;
    if (begin > first) munmap(all, begin - first);
    if (last > end) munmap(reinterpret_cast<void*>(end), last - end);
    madvise(reinterpret_cast<void*>(begin), bytes, MADV_HUGEPAGE);
    return reinterpret_cast<void*>(begin);
  }
  void give(void* p, int64_t mapped, int64_t asked) {
    if (asked > allowed(0)) {  // never fits: must not drive the others out first
      munmap(p, mapped);
      return;
    }
    {
      std::lock_guard lock(mutex_);
      kept_.push_back({p, mapped, asked});
      total_ += asked;
    }
    release(allowed(0));
  }

 private:
  struct Kept {
    void* data;
    int64_t mapped, asked;
  };
  static void* map(int64_t bytes) {
    return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  // How much may be kept: with what is in use (and `more`) as much as was ever in use, and
  // kKeptBlocks. A training step frees in backward what the next one's forward takes again.
  static int64_t allowed(int64_t more) {
    return kKeptBlocks + std::max<int64_t>(0, peak_bytes.load() - live_bytes.load() - more);
  }
  // Gives the oldest back to the system until at most `most` bytes are kept; not under the lock,
  // which others wait for.
  void release(int64_t most) {
    std::vector<Kept> old;
    {
      std::lock_guard lock(mutex_);
      auto end = kept_.begin();
      for (; end != kept_.end() && total_ > most; ++end) total_ -= end->asked;
      old.assign(kept_.begin(), end);
      kept_.erase(kept_.begin(), end);
    }
    for (const Kept& k : old) munmap(k.data, k.mapped);
  }

  std::mutex mutex_;
  std::vector<Kept> kept_;  // oldest first
  int64_t total_ = 0;       // bytes asked for: as live_bytes counts, which allowed() is made of
};
LargeBlocks& large_blocks() {
  static auto* blocks = new LargeBlocks;  // never destroyed: static tensors may outlive it
  return *blocks;
}

// Up to an eighth more: what layers need differs a little with their routing, and the block of one
// shall do for the next. The tail is address space until a block is taken again for less (take()
// gives up to an eighth more still), whose former user may have touched it.
int64_t rounded(int64_t n) {
  int64_t unit =
      std::max<int64_t>(4096, static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(n))) / 8);
  return (n + unit - 1) / unit * unit;
}

struct HeapStorage : Storage {
  void* data;
  int64_t bytes, mapped;
  explicit HeapStorage(int64_t n) : bytes(n), mapped(n < kLarge ? n : rounded(n)) {
    data = n >= kLarge ? large_blocks().take(mapped)
                       : std::aligned_alloc(64, (n + 63) / 64 * 64 + (n == 0 ? 64 : 0));
    if (data == nullptr) fail("out of memory: {} bytes wanted, {} in use", n, live_bytes.load());
    count(bytes);
  }
  ~HeapStorage() override {
    count(-bytes);
    if (bytes >= kLarge)
      large_blocks().give(data, mapped, bytes);
    else
      std::free(data);
  }
};

}  // namespace

int64_t numel_of(const Shape& shape) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Tensor Tensor::view(Shape s) const {
  int64_t c = s.empty() ? 1 : s.back();
  if (numel_of(s) != numel() || (!contiguous() && c != cols())) [[unlikely]]
    fail("view: {}{} as {}", contiguous() ? "" : "strided ", to_string(shape), to_string(s));
  Tensor t = *this;
  t.ld = contiguous() ? c : ld;
  t.shape = std::move(s);
  return t;
}

Tensor Tensor::slice(int64_t lo, int64_t hi) const {
  if (shape.empty() || lo < 0 || lo > hi || hi > shape[0]) [[unlikely]]
    fail("slice {}..{} of {}", lo, hi, to_string(shape));
  Tensor t = *this;
  t.shape[0] = hi - lo;
  int64_t rows_per =
      shape.size() == 1 ? 0 : numel_of(shape) / (shape[0] == 0 ? 1 : shape[0]) / cols();
  t.data += (shape.size() == 1 ? lo : lo * rows_per * ld) * size_of(dtype);
  return t;
}

Tensor Tensor::columns(int64_t lo, int64_t hi) const {
  if (lo < 0 || lo > hi || hi > cols()) [[unlikely]]
    fail("columns {}..{} of {}", lo, hi, to_string(shape));
  Tensor t = *this;
  t.shape.back() = hi - lo;
  t.data += lo * size_of(dtype);
  return t;
}

Tensor wrap(std::shared_ptr<Storage> storage, void* data, Shape shape, DType dtype) {
  Tensor t;
  t.storage = std::move(storage);
  t.data = static_cast<std::byte*>(data);
  t.ld = shape.empty() ? 1 : shape.back();
  t.shape = std::move(shape);
  t.dtype = dtype;
  return t;
}

Tensor empty(Shape shape, DType dtype) {
  int64_t n = numel_of(shape);
  if (n < 0) [[unlikely]]
    fail("tensor of shape {}", to_string(shape));
  if (dry && n * size_of(dtype) >= kDryBytes) {
    auto pages = std::make_shared<DryStorage>(n * size_of(dtype));
    void* p = pages->data;
    return wrap(std::move(pages), p, std::move(shape), dtype);
  }
  auto heap = std::make_shared<HeapStorage>(n * size_of(dtype));
  void* p = heap->data;
  return wrap(std::move(heap), p, std::move(shape), dtype);
}

Tensor zeros(Shape shape, DType dtype) {
  Tensor t = empty(std::move(shape), dtype);
  if (!dry || t.nbytes() < kDryBytes) std::memset(t.data, 0, t.nbytes());
  return t;
}

Tensor empty_like(const Tensor& t) { return empty(t.shape, t.dtype); }

void copy_into(const Tensor& dst, const Tensor& src) {
  if (dst.numel() != src.numel()) [[unlikely]]
    fail("copy {} into {}", to_string(src.shape), to_string(dst.shape));
  if (dry) return;
  if (is_packed(src.dtype)) {
    if (dst.dtype == float_type(src) && dst.contiguous()) return unpack(dst, src);
    return copy_into(dst, cast(src, float_type(src)));
  }
  if (dst.dtype == src.dtype) {
    if (dst.contiguous() && src.contiguous()) {
      std::memcpy(dst.data, src.data, src.nbytes());
      return;
    }
    check(dst.cols() == src.cols(), "copy {} into {}", to_string(src.shape), to_string(dst.shape));
    int64_t b = size_of(src.dtype);
    for (int64_t r = 0; r < src.rows(); ++r)
      std::memcpy(dst.data + r * dst.ld * b, src.data + r * src.ld * b, src.cols() * b);
    return;
  }
  check(dst.contiguous() || dst.cols() == src.cols(), "copy {} into {}", to_string(src.shape),
        to_string(dst.shape));
  visit_float(src.dtype, [&](auto s) {
    using S = decltype(s);
    auto get = [&](int64_t i) {
      return float(src.as<S>()[i / src.cols() * src.ld + i % src.cols()]);
    };
    auto at = [&](int64_t i) { return i / dst.cols() * dst.ld + i % dst.cols(); };
    int64_t n = src.numel();
    if (dst.dtype == DType::F32) {
      for (int64_t i = 0; i < n; ++i) dst.as<float>()[at(i)] = get(i);
    } else if (dst.dtype == DType::F16) {  // the language rounds to nearest even, too
      for (int64_t i = 0; i < n; ++i)
        dst.as<f16>()[at(i)] = {std::bit_cast<uint16_t>(static_cast<_Float16>(get(i)))};
    } else {
      for (int64_t i = 0; i < n; ++i) dst.as<bf16>()[at(i)] = bf16(get(i));
    }
  });
}

int64_t Tensor::packed_bytes() const {
  if (dtype == DType::NF4) return (numel() + 1) / 2;
  const BlockFormat& f = *blocks_of(*this).format;
  return numel() / f.elements * f.bytes;
}

Tensor cast(const Tensor& t, DType dtype) {
  if (is_packed(t.dtype) && dtype == t.dtype) return t;  // packed weights are never written
  Tensor out = empty(t.shape, dtype);
  copy_into(out, t);
  return out;
}

Tensor clone(const Tensor& t) { return cast(t, t.dtype); }

void forget_pages(const Tensor& t) {
  if (!t.storage || !t.storage->mapped() || dry) return;
  constexpr uintptr_t kPage = 4096;
  auto lo = (reinterpret_cast<uintptr_t>(t.data) + kPage - 1) / kPage * kPage,
       hi = (reinterpret_cast<uintptr_t>(t.data) + t.nbytes()) / kPage * kPage;
  if (lo < hi) madvise(reinterpret_cast<void*>(lo), hi - lo, MADV_DONTNEED);
}

DryRun::DryRun() : before_(dry) { dry = true; }
DryRun::~DryRun() { dry = before_; }
bool dry_run() { return dry; }

MemoryStats memory_stats() { return {live_bytes.load(), peak_bytes.load()}; }
void reset_memory_peak() { peak_bytes = live_bytes.load(); }

}  // namespace sutor
