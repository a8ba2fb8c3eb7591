// Predicted step times (model/scaling.h): by hand for cases in which one part alone counts.
// Against measured runs: bench/scaling.sh.
#include "model/scaling.h"

#include <doctest/doctest.h>

#include "tests/command.h"

using namespace sutor;
using namespace sutor::test;

namespace {

Cluster cluster(int hosts, int cores) {
  Cluster c;
  c.hosts = hosts;
  c.cores = cores;
  c.micro_batch_s = 2;
  c.expert_share = 0.5;
  c.host = {10, 0};
  c.network = {1, 0};
  c.memory_gbytes_per_s = 1e6;  // free
  return c;
}

TrainedWork work(int64_t micro_batches) {
  TrainedWork w;
  w.micro_batches = micro_batches;
  w.tokens = 1000;
  w.hidden = 100;
  w.moe_layers = w.layers_back = 5;
  w.top_k = 2;
  return w;
}

}  // namespace

TEST_CASE("scaling: waves of micro-batches, ranks that share cores, a host's busy memory") {
  Cluster c = cluster(1, 8);
  CHECK(predict(c, work(8), 1, 1).step == doctest::Approx(16));
  CHECK(predict(c, work(8), 4, 1).step == doctest::Approx(4));
  CHECK(predict(c, work(8), 3, 1).step == doctest::Approx(6));   // three waves
  CHECK(predict(c, work(8), 16, 1).step == doctest::Approx(4));  // two ranks a core
  c.busy = 1.5;
  CHECK(predict(c, work(8), 8, 1).step == doctest::Approx(3));
  CHECK(predict(c, work(8), 1, 1).step == doctest::Approx(16));
}

TEST_CASE("scaling: gradients once a wave, values once a step; between hosts over their port") {
  TrainedWork w = work(8);
  w.everywhere = 100'000'000;
  // Two ranks on one host: four waves of half of the gradient, then half of the values.
  const Prediction near = predict(cluster(1, 8), w, 2, 1);
  CHECK(near.bytes == doctest::Approx(4 * 2e8 + 1e8));
  CHECK(near.gradients == doctest::Approx(4 * 2e8 / 10e9).epsilon(1e-3));
  const Prediction far = predict(cluster(2, 8), w, 2, 1);
  CHECK(far.bytes == doctest::Approx(near.bytes));
  CHECK(far.gradients == doctest::Approx(4 * 2e8 / 1e9).epsilon(1e-3));
  // Experts that a single replica shares: no gradient travels.
  TrainedWork e = work(8);
  e.experts = 100'000'000;
  CHECK(predict(cluster(1, 8), e, 4, 4).gradients == doctest::Approx(0).epsilon(1e-3));
}

TEST_CASE("scaling: rows of tokens to the owners of their experts and back, forward and backward") {
  const Prediction p = predict(cluster(1, 8), work(2), 2, 2);
  // Of two even choices 1.5 owners; half of the rows and of the results are away; 10 passes.
  CHECK(p.bytes == doctest::Approx(10 * 1000 * 0.5 * (1.5 + 2) * 100 * 4));
  TrainedWork uneven = work(2);
  uneven.most_work = 1.5;
  CHECK(predict(cluster(1, 8), uneven, 2, 2).compute == doctest::Approx(2 * (0.5 + 0.75)));
}

TEST_CASE("scaling: a cluster's file that lacks a key, or has another, is refused in one line") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string estimate =
      "estimate tests/goldens/esft_train/model --method full --seq 64 --grad-accum 8 --cluster ";
  Result r = run(f, estimate + "recipes/ranks/cluster.yaml --json");
  CAPTURE(r.err);
  CHECK(r.code == 0);
  const Json rows = parse_json(r.out, "stdout")["predicted"];
  CHECK(rows.size() > 11);
  check_one_line(run(f, estimate + f.file("a.yaml", "hosts: 2\n")), 1, {"a.yaml", "is missing"});
  check_one_line(run(f, estimate + f.file("b.yaml", "hots: 2\n")), 1, {"hots", "allowed", "hosts"});
  check_one_line(run(f, estimate + f.file("c.yaml", "hosts: many\n")), 1, {"hosts", "no number"});
}
