// The thread pool: every index once, nested calls, exceptions, a changing number of threads. Run
// under `make tsan` with the kernels.
#include "engine/parallel.h"

#include <doctest/doctest.h>

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

TEST_CASE("parallel_for: many short regions, scratch by thread, results seen by the caller") {
  Threads restore;
  set_num_threads(4);
  std::vector<int64_t> of_thread(num_threads()), out(64);
  int64_t want = 0;
  for (int round = 0; round < 500; ++round) {
    parallel_for(64, 1, [&](int64_t lo, int64_t hi) {
      of_thread[thread_index()] += hi - lo;
      for (int64_t i = lo; i < hi; ++i) out[i] += i;
    });
    want += 64;
    CHECK(std::accumulate(of_thread.begin(), of_thread.end(), int64_t{0}) == want);
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
