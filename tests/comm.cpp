// Messages between ranks (threads of this process): order, sizes, groups, a rank that fails, one
// that does not answer.
#include "engine/comm.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <numeric>
#include <thread>

#include "engine/ranks.h"

using namespace sutor;

TEST_CASE("comm: gathers, all to all and broadcasts, of any size, for 1 to 8 ranks") {
  for (int n : {1, 2, 3, 8})
    run_ranks_as_threads(n, 60, [&](const Comm& c) {
      const std::vector<int64_t> all = c.all_gather(int64_t{c.rank()} * 10, "numbers");
      for (int r = 0; r < n; ++r) CHECK(all[r] == r * 10);
      // Texts of other lengths, an empty one among them.
      const std::vector<std::string> texts =
          c.all_gather(std::string(static_cast<size_t>(c.rank()) * 1000, 'a'), "texts");
      for (int r = 0; r < n; ++r) CHECK(texts[r].size() == static_cast<size_t>(r) * 1000);
      std::vector<int64_t> to(n);
      for (int r = 0; r < n; ++r) to[r] = c.rank() * 100 + r;
      const std::vector<int64_t> from = c.all_to_all(to, "pairs");
      for (int r = 0; r < n; ++r) CHECK(from[r] == r * 100 + c.rank());
      CHECK(c.broadcast(fmt::format("from {}", c.rank()), n - 1, "word") ==
            fmt::format("from {}", n - 1));
      c.barrier("barrier");
    });
}

TEST_CASE("comm: several transfers under way arrive in the order in which they were started") {
  run_ranks_as_threads(3, 60, [](const Comm& c) {
    const int next = (c.rank() + 1) % 3, before = (c.rank() + 2) % 3;
    std::vector<std::vector<int>> out(50), in(50);
    std::vector<Comm::Pending> pending;
    for (int i = 0; i < 50; ++i) {
      out[i].assign(1 + i * 37, c.rank() * 1000 + i);
      in[i].resize(1 + i * 37);
      const auto bytes = static_cast<int64_t>(out[i].size() * sizeof(int));
      pending.push_back(
          c.start({{next, out[i].data(), bytes}}, {{before, in[i].data(), bytes}}, "ring"));
    }
    for (int i : {3, 1, 49, 0}) pending[i].wait();  // and the others in any order
    for (auto& p : pending) p.wait();
    for (int i = 0; i < 50; ++i) CHECK(in[i].back() == before * 1000 + i);
  });
}

TEST_CASE("comm: groups of ranks; what is sent is counted") {
  run_ranks_as_threads(6, 60, [](const Comm& world) {
    const Ranks ranks = make_ranks(world, 3);
    CHECK(ranks.sharing.size() == 3);
    CHECK(ranks.replicas.size() == 2);
    CHECK(ranks.sharing.rank() == world.rank() % 3);
    CHECK(ranks.replicas.rank() == world.rank() / 3);
    const std::vector<int64_t> group = ranks.sharing.all_gather(world.rank(), "in the group");
    for (int i = 0; i < 3; ++i) CHECK(group[i] == world.rank() / 3 * 3 + i);
    const std::vector<int64_t> same = ranks.replicas.all_gather(world.rank(), "replicas");
    for (int i = 0; i < 2; ++i) CHECK(same[i] == i * 3 + world.rank() % 3);
    CHECK(world.traffic().at("in the group").bytes == 2 * 8);
    CHECK(world.traffic().at("replicas").bytes == 8);
    CHECK_THROWS_WITH_AS(make_ranks(world, 4), doctest::Contains("--ep 4"), Error);
  });
}

TEST_CASE("comm: a rank that fails ends the others with its reason") {
  const auto begin = std::chrono::steady_clock::now();
  std::atomic<int> told{0};
  CHECK_THROWS_WITH_AS(run_ranks_as_threads(4, 60,
                                            [&](const Comm& c) {
                                              if (c.rank() == 2) fail("no such tensor");
                                              try {
                                                c.barrier("barrier");
                                              } catch (const PeerError& e) {
                                                told += std::string(e.what()) ==
                                                        "rank 2: no such tensor";
                                                throw;
                                              }
                                            }),
                       "no such tensor", Error);
  CHECK(told == 3);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(10));
}

TEST_CASE("comm: a rank that does not answer in time is named, with the step and the operation") {
  CHECK_THROWS_WITH_AS(
      run_ranks_as_threads(3, 0.2,
                           [&](const Comm& c) {
                             c.say_where("step 14");
                             if (c.rank() == 1)
                               std::this_thread::sleep_for(std::chrono::milliseconds(800));
                             else
                               c.barrier("expert outputs");
                           }),
      doctest::Contains("step 14: expert outputs: no answer from rank 1 within 0.2 s"), PeerError);
}

TEST_CASE("comm: ranks out of step are an error, not a mix-up of their messages") {
  CHECK_THROWS_WITH_AS(run_ranks_as_threads(2, 5,
                                            [&](const Comm& c) {
                                              if (c.rank() == 0)
                                                c.all_gather(int64_t{1}, "numbers");
                                              else
                                                c.all_gather(int64_t{1}, "words");
                                            }),
                       doctest::Contains("out of step"), Error);
}
