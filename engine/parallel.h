#pragma once
// One pool of threads for the process. Work is split by index; every index must write its own
// outputs, so the number of threads never changes a result.

#include <cstdint>
#include <functional>
#include <string>

namespace sutor {

int num_threads();
void set_num_threads(int n);  // >= 1; the calling thread counts as one
int machine_cores();          // of all processors that are online
int physical_cores();  // that this process may use: affinity and the control group's quota bound it
// The processors that a control group may use by its cpu.max or those above it (version 1:
// cpu.cfs_quota_us), rounded up; 0: no limit. `root` is where control groups are mounted.
int quota_of_cgroup(const std::string& root, std::string group);

// fn(lo, hi) over a partition of [0, n) in blocks of at least `grain`; blocks are handed out
// dynamically. Exceptions of a block are rethrown in the caller. A call from inside a parallel
// region runs serially.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t lo, int64_t hi)>& fn);

// The grain of units that cost `work` multiply-adds each: waking other threads takes microseconds,
// so a block is worth tens of them, and what is smaller than a block runs here.
inline int64_t grain_of(int64_t work) {
  constexpr int64_t kBlock = 1 << 17;
  return 1 + kBlock / (work > 0 ? work : 1);
}

}  // namespace sutor
