// The thread pool: every index once, nested calls, exceptions, a changing number of threads. Run
// under `make tsan` with the kernels.
#include "engine/parallel.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <atomic>
#include <numeric>
#include <stdexcept>
#include <vector>

using namespace sutor;

namespace {

struct Threads {  // as they were, at the end
  int before = num_threads();
  ~Threads() { set_num_threads(before); }
};

}  // namespace

TEST_CASE("parallel_for: every index once, whatever the grain and the number of threads") {
  Threads restore;
  for (int threads : {1, 2, 3, 8})
    for (int64_t n : {0, 1, 2, 7, 1000})
      for (int64_t grain : {1, 3, 5000}) {
        set_num_threads(threads);
        std::vector<int> hits(n);
        parallel_for(n, grain, [&](int64_t lo, int64_t hi) {
          for (int64_t i = lo; i < hi; ++i) ++hits[i];
        });
        CHECK(std::accumulate(hits.begin(), hits.end(), int64_t{0}) == n);
        for (int h : hits) CHECK(h == 1);
      }
}

TEST_CASE("parallel_for: many short regions, results seen by the caller") {
  Threads restore;
  set_num_threads(4);
  std::vector<int64_t> out(64);
  for (int round = 0; round < 500; ++round) {
    parallel_for(64, 1, [&](int64_t lo, int64_t hi) {
      for (int64_t i = lo; i < hi; ++i) out[i] += i;
    });
  }
  for (int64_t i = 0; i < 64; ++i) CHECK(out[i] == 500 * i);
}

TEST_CASE("parallel_for: an exception reaches the caller, and the pool works on") {
  Threads restore;
  set_num_threads(3);
  for (int round = 0; round < 50; ++round) {
    CHECK_THROWS_AS(parallel_for(100, 1,
                                 [&](int64_t lo, int64_t hi) {
                                   if (lo <= 50 && 50 < hi) throw std::runtime_error("50");
                                 }),
                    std::runtime_error);
    std::atomic<int64_t> sum = 0;
    parallel_for(10, 1, [&](int64_t lo, int64_t hi) { sum += hi - lo; });
    CHECK(sum == 10);
  }
}

TEST_CASE("parallel_for: a call inside a region runs serially and completes") {
  Threads restore;
  set_num_threads(4);
  std::vector<int> hits(100);
  parallel_for(10, 1, [&](int64_t lo, int64_t hi) {
    for (int64_t i = lo; i < hi; ++i)
      parallel_for(10, 1, [&](int64_t a, int64_t b) {
        for (int64_t k = a; k < b; ++k) ++hits[10 * i + k];
      });
  });
  for (int h : hits) CHECK(h == 1);
}

TEST_CASE("parallel: the control group's quota, its parents' too") {
  namespace fs = std::filesystem;
  fs::path root = fs::temp_directory_path() / fmt::format("sutor-cgroup-{}", getpid());
  fs::create_directories(root / "a/b");
  fs::create_directories(root / "cpu/old");
  auto put = [&](const char* file, const char* text) { std::ofstream(root / file) << text; };
  put("cpu.max", "max 100000\n");
  CHECK(quota_of_cgroup(root, "/a/b") == 0);
  put("a/cpu.max", "150000 100000\n");
  put("a/b/cpu.max", "400000 100000\n");
  CHECK(quota_of_cgroup(root, "/a/b") == 2);
  put("cpu/old/cpu.cfs_quota_us", "-1\n");
  put("cpu/old/cpu.cfs_period_us", "100000\n");
  CHECK(quota_of_cgroup(root, "/old") == 0);
  put("cpu/old/cpu.cfs_quota_us", "300000\n");
  CHECK(quota_of_cgroup(root, "/old") == 3);
  fs::remove_all(root);
}
