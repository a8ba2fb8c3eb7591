// The training loop against the ESFT authors' own code (tests/goldens/make_esft_train.py), and its
// bitwise contracts.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "engine/parallel.h"
#include "io/safetensors.h"
#include "model/checkpoint.h"
#include "model/esft.h"
#include "model/run_state.h"
#include "model/trainer.h"

using namespace sutor;

namespace {

const std::string kDir = "tests/goldens/esft_train";

std::vector<TrainRow> golden_rows(const Checkpoint& golden) {
  Tensor ids = golden.get("input_ids"), labels = golden.get("labels");
  int64_t T = ids.cols();
  std::vector<TrainRow> rows(ids.rows());
  for (int64_t i = 0; i < ids.numel(); ++i) {
    rows[i / T].ids.push_back(static_cast<int32_t>(ids.as<int64_t>()[i]));
    rows[i / T].labels.push_back(static_cast<int32_t>(labels.as<int64_t>()[i]));
  }
  return rows;
}

TrainOptions golden_options(bool aux) {
  TrainOptions o;
  o.steps = 20;
  o.batch = 2;
  o.grad_accum = 2;
  o.lr = 1e-3;
  o.mean = LossMean::kMeans;
  o.shuffle = false;
  o.aux_alpha = aux ? 1e-3 : 0;
  return o;
}

std::unique_ptr<Model> esft_model(Compute compute) {
  auto model = load_model(kDir + "/model");
  ExpertConfig config = read_expert_config(kDir + "/expert_cfg.json");
  for (const Param& p : model->params.all())
    if (trains(config, p.name)) model->params.train(p.name);
  model->params.prepare_training(compute);
  return model;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.nbytes() == b.nbytes() && std::memcmp(a.data, b.data, a.nbytes()) == 0;
}

bool same_weights(Model& a, Model& b) {
  for (Param& p : a.params.all())
    if (!same_bytes(p.value, b.params.at(p.name).value)) return false;
  return true;
}

}  // namespace

TEST_CASE(
    "training: 20 steps equal the authors' code in float32, with and without the balance loss") {
  Checkpoint golden = Checkpoint::open(kDir + "/golden.safetensors");
  std::vector<TrainRow> rows = golden_rows(golden);
  for (bool aux : {false, true}) {
    CAPTURE(aux);
    std::string run = aux ? "aux" : "no_aux";
    Tensor losses = golden.get("losses." + run), norms = golden.get("grad_norms." + run);
    auto read = [](const Tensor& t, int64_t i) {
      return t.dtype == DType::F64 ? t.as<double>()[i] : t.as<float>()[i];
    };
    auto model = esft_model(Compute::kF32);
    Ctx ctx = cpu_context(Compute::kF32);
    train(ctx, *model, rows, golden_options(aux), 0, [&](const StepLog& s) {
      CHECK(s.loss == doctest::Approx(read(losses, s.step - 1)).epsilon(1e-5).scale(0));
      CHECK(s.grad_norm == doctest::Approx(read(norms, s.step - 1)).epsilon(1e-4).scale(0));
      return true;
    });
    auto base = load_model(kDir + "/model");
    for (Param* p : model->params.trainable()) {
      CAPTURE(p->name);
      Tensor want = golden.get("final." + run + "." + p->name),
             start = cast(base->params.at(p->name).value, DType::F32);
      double diff = 0, change = 0;
      for (int64_t i = 0; i < want.numel(); ++i) {
        double w = want.f32()[i];
        diff += std::pow(p->value.f32()[i] - w, 2);
        change += std::pow(w - start.f32()[i], 2);
      }
      CHECK(std::sqrt(diff / change) <= 1e-4);
    }
  }
}

TEST_CASE(
    "training: the same bits in two runs, for 1, 2 and 4 threads, with recomputation, and only "
    "selected weights change") {
  Checkpoint golden = Checkpoint::open(kDir + "/golden.safetensors");
  std::vector<TrainRow> rows = golden_rows(golden);
  for (Compute compute : {Compute::kF32, Compute::kBF16}) {
    Ctx ctx = cpu_context(compute);
    auto run = [&](int threads, bool recompute, bool aux) {
      TrainOptions o = golden_options(aux);
      o.steps = 3;
      set_num_threads(threads);
      auto model = esft_model(compute);
      model->recompute = recompute;
      train(ctx, *model, rows, o, 0, [](const StepLog&) { return true; });
      return model;
    };
    auto one = run(1, false, false), balanced = run(2, false, true);
    for (int threads : {1, 2, 4}) CHECK(same_weights(*one, *run(threads, false, false)));
    CHECK(same_weights(*one, *run(2, true, false)));
    CHECK(same_weights(*balanced, *run(2, true, true)));
    CHECK_FALSE(same_weights(*one, *balanced));
    auto base = load_model(kDir + "/model");
    int changed = 0;
    for (Param& p : one->params.all()) {
      bool same = same_bytes(p.value, base->params.at(p.name).value);
      CHECK(same == !p.trainable);
      changed += !same;
    }
    CHECK(changed == 21);
  }
  set_num_threads(physical_cores());
}

TEST_CASE(
    "training: resume equals an uninterrupted run, and an adapter brings the trained model back, "
    "bit by bit") {
  Checkpoint golden = Checkpoint::open(kDir + "/golden.safetensors");
  std::vector<TrainRow> rows = golden_rows(golden);
  Ctx ctx = cpu_context(Compute::kBF16);
  TrainOptions o = golden_options(true);
  o.steps = 6;
  auto whole = esft_model(Compute::kBF16), first = esft_model(Compute::kBF16),
       second = esft_model(Compute::kBF16);
  train(ctx, *whole, rows, o, 0, [](const StepLog&) { return true; });
  train(ctx, *first, rows, o, 0, [](const StepLog& s) { return s.step < 3; });
  std::string state = "build/test-state";
  write_state(state, *first, 3, "run");
  CHECK_THROWS_AS(read_state(state, *second, "another run"), Error);
  CHECK(read_state(state, *second, "run") == 3);
  train(ctx, *second, rows, o, 3, [](const StepLog&) { return true; });
  CHECK(same_weights(*whole, *second));

  write_adapter("build/test-adapter", *whole, kDir + "/model", "", nullptr);
  auto loaded = load_model(kDir + "/model");
  load_adapter(*loaded, "build/test-adapter");
  CHECK(same_weights(*whole, *loaded));
  write_model("build/test-export", *whole, kDir + "/model");
  CHECK(same_weights(*whole, *load_model("build/test-export")));
}
