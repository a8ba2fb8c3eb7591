// The pool: num_threads() - 1 workers that spin briefly for the next region, then sleep on a
// condition variable. A region is published under the mutex with a new generation number; threads
// take blocks from an atomic counter. Denormals are flushed in every thread (products of tiny
// weights are otherwise several times slower). Test: tests/kernels/linear.cpp (thread counts).

#include "engine/parallel.h"

#include <immintrin.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <condition_variable>
#include <exception>
#include <fstream>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "engine/error.h"

namespace sutor {
namespace {

using Body = std::function<void(int64_t, int64_t)>;

thread_local bool inside = false;

void flush_denormals() { _mm_setcsr(_mm_getcsr() | 0x8040); }  // FTZ | DAZ

int usable_cpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

// This process' control group: of version 2 ("0::/a/b"), else of version 1's controller "cpu".
std::string own_cgroup() {
  std::ifstream f("/proc/self/cgroup");
  std::string one;
  for (std::string line; std::getline(f, line);) {
    size_t a = line.find(':'), b = line.find(':', a + 1);
    if (b == std::string::npos) continue;
    std::string controllers = "," + line.substr(a + 1, b - a - 1) + ",", group = line.substr(b + 1);
    if (group == "/") group.clear();
    if (controllers == ",,") return group;
    if (controllers.find(",cpu,") != std::string::npos) one = group;
  }
  return one;
}

class Pool {
 public:
  explicit Pool(int n) {
    try {
      for (int i = 1; i < n; ++i) threads_.emplace_back([this] { work(); });
    } catch (const std::system_error& e) {
      size_t got = threads_.size() + 1;
      stop();
      fail("--threads {}: the system gives no more than {}: {}", n, got, e.code().message());
    }
  }
  ~Pool() { stop(); }
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

  void stop() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    for (auto& t : threads_) t.join();
  }

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

  void work() {
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

int quota_of_cgroup(const std::string& root, std::string group) {
  double least = 0;
  for (;;) {
    std::string quota;
    double period = 0;
    std::ifstream v2(root + group + "/cpu.max");
    if (!(v2 >> quota >> period)) {
      std::ifstream q(root + "/cpu" + group + "/cpu.cfs_quota_us"),
          p(root + "/cpu" + group + "/cpu.cfs_period_us");
      if (!(q >> quota) || !(p >> period)) quota = "max";
    }
    double n = 0;
    auto [end, ec] = std::from_chars(quota.data(), quota.data() + quota.size(), n);
    if (ec == std::errc() && n > 0 && period > 0)  // "max" and -1: no limit
      least = least > 0 ? std::min(least, n / period) : n / period;
    size_t slash = group.rfind('/');
    if (slash == std::string::npos) break;
    group.resize(slash);
  }
  return static_cast<int>(std::ceil(std::min(least, 1e6)));
}

int machine_cores() {
  static const int n = [] {
    std::set<std::string> cores;
    for (long i = 0; i < sysconf(_SC_NPROCESSORS_CONF); ++i) {
      std::string dir = fmt::format("/sys/devices/system/cpu/cpu{}/topology/", i), package, core;
      std::ifstream p(dir + "physical_package_id"), c(dir + "core_id");
      if (!(p >> package) || !(c >> core)) continue;  // offline
      cores.insert(package + ":" + core);
    }
    return cores.empty() ? std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)))
                         : static_cast<int>(cores.size());
  }();
  return n;
}

int physical_cores() {
  static const int n = [] {
    int usable = usable_cpus();
    if (int quota = quota_of_cgroup("/sys/fs/cgroup", own_cgroup()); quota > 0)
      usable = std::min(usable, quota);
    return std::min(usable, machine_cores());
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
