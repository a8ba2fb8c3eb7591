// The pool: num_threads() - 1 workers that spin briefly for the next region, then sleep on a
// condition variable. A region is published under the mutex with a new generation number; threads
// take blocks from an atomic counter. Denormals are flushed in every thread (products of tiny
// weights are otherwise several times slower). Test: tests/kernels/linear.cpp (thread counts).

#include "engine/parallel.h"

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <fstream>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "engine/error.h"

namespace sutor {
namespace {

using Body = std::function<void(int64_t, int64_t)>;

thread_local int this_index = 0;
thread_local bool inside = false;

void flush_denormals() { _mm_setcsr(_mm_getcsr() | 0x8040); }  // FTZ | DAZ

int usable_cpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

class Pool {
 public:
  explicit Pool(int n) {
    for (int i = 1; i < n; ++i) threads_.emplace_back([this, i] { work(i); });
  }
  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    for (auto& t : threads_) t.join();
  }
  int size() const { return static_cast<int>(threads_.size()) + 1; }

  void run(int64_t n, int64_t block, const Body& fn) {
    {
      std::lock_guard lock(mutex_);
      fn_ = &fn;
      n_ = n;
      block_ = block;
      next_.store(0);
      busy_.store(size() - 1);
      error_ = nullptr;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    take_blocks();
    for (int spin = 0; busy_.load(std::memory_order_acquire) != 0; ++spin) {
      if (spin < kSpins) {
        _mm_pause();
      } else {  // a worker may have lost its core: do not fight it for ours
        std::unique_lock lock(mutex_);
        done_.wait(lock, [&] { return busy_.load() == 0; });
      }
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static constexpr int kSpins =
      4000;  // about 50-100 us: regions of one layer follow each other faster than that

  void take_blocks() {
    inside = true;
    try {
      for (int64_t lo; (lo = next_.fetch_add(block_)) < n_;) (*fn_)(lo, std::min(n_, lo + block_));
    } catch (...) {
      next_.store(n_);
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
    inside = false;
  }

  void work(int index) {
    this_index = index;
    flush_denormals();
    for (uint64_t seen = 0;;) {
      for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen;
           ++spin)
        _mm_pause();
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load() != seen; });
        seen = generation_.load();
        if (stop_) return;
      }
      take_blocks();
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard lock(mutex_);
        done_.notify_one();
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  const Body* fn_ = nullptr;
  int64_t n_ = 0, block_ = 1;
  bool stop_ = false;
  std::exception_ptr error_;
  std::vector<std::thread> threads_;  // last: workers use everything above
};

std::mutex entry;  // regions of different calling threads (ranks as threads) take turns
std::unique_ptr<Pool> pool;
std::atomic<int> wanted{0};

}  // namespace

int physical_cores() {
  static const int n = [] {
    std::set<std::string> cores;
    for (int i = 0; i < 4096; ++i) {
      std::string dir = fmt::format("/sys/devices/system/cpu/cpu{}/topology/", i), package, core;
      std::ifstream p(dir + "physical_package_id"), c(dir + "core_id");
      if (!(p >> package) || !(c >> core)) break;
      cores.insert(package + ":" + core);
    }
    int usable = usable_cpus();
    return cores.empty() ? usable : std::min(usable, static_cast<int>(cores.size()));
  }();
  return n;
}

int num_threads() {
  int n = wanted.load();
  return n > 0 ? n : physical_cores();
}

void set_num_threads(int n) {
  check(n >= 1, "threads: {} (at least 1)", n);
  std::lock_guard lock(entry);
  wanted = n;
  pool.reset();
}

int thread_index() { return this_index; }

void parallel_for(int64_t n, int64_t grain, const Body& fn) {
  if (n <= 0) return;
  grain = std::max<int64_t>(1, grain);
  if (inside || n <= grain || num_threads() == 1) {
    struct Guard {  // a serial region is a region: what it calls stays serial, and denormals are
                    // flushed
      bool old = inside;
      unsigned csr = _mm_getcsr();
      Guard() {
        inside = true;
        flush_denormals();
      }
      ~Guard() {
        inside = old;
        _mm_setcsr(csr);
      }
    } guard;
    fn(0, n);
    return;
  }
  std::lock_guard lock(entry);
  if (!pool) pool = std::make_unique<Pool>(num_threads());
  struct Guard {
    unsigned csr = _mm_getcsr();
    Guard() { flush_denormals(); }
    ~Guard() { _mm_setcsr(csr); }
  } guard;
  // About sixteen blocks a thread: enough to even out, few enough that the counter costs nothing.
  int64_t block = std::max(grain, n / (16 * pool->size()));
  pool->run(n, block, fn);
}

}  // namespace sutor
