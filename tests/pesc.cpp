// PESC training against the authors' own code (tests/goldens/make_pesc_train.py): five steps over a
// float32 and over an NF4 base, what they save, their merge; and its bitwise contracts.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "engine/parallel.h"
#include "io/safetensors.h"
#include "model/data.h"
#include "model/generate.h"
#include "model/names.h"
#include "model/nf4.h"
#include "model/pesc_adapter.h"
#include "model/run_state.h"
#include "model/trainer.h"
#include "tests/command.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

namespace {

const std::string kDir = "tests/goldens/pesc_train", kPeft = "base_model.model.";

std::vector<TrainRow> golden_rows() {
  std::vector<TrainRow> rows;
  for (Row& r : read_dataset(kDir + "/rows.jsonl", false).rows)
    rows.push_back({r.ids, r.labels, {}});
  return rows;
}

TrainOptions golden_options() {
  TrainOptions o;
  o.steps = 5;
  o.batch = o.grad_accum = 2;
  o.lr = 1e-3;
  o.clip = 0.3;
  o.adamw.beta2 = 0.999;
  o.adamw.weight_decay = 0;
  o.mean = LossMean::kMeans;
  o.shuffle = false;
  return o;
}

// The golden's start: adapters as in the file, LoRA as in lora.safetensors.
std::unique_ptr<Model> pesc_model(bool nf4, Compute compute, double dropout = 0) {
  auto model = load_model(kDir + "/model");
  model->config.adapter_dropout = dropout;
  model->params.freeze_all();
  model->params.train(kPescTrains);
  add_lora(*model, {4, 6, pesc_lora_targets(), dropout}, 0);
  Checkpoint lora = Checkpoint::open(kDir + "/lora.safetensors");
  for (const std::string& key : lora.names())
    model->params.at(key.substr(kPeft.size())).value = clone(lora.get(key));
  if (nf4) {  // theirs are unpacked to float32, not to the type of the file
    for (Param& p : model->params.all())
      if (!p.trainable && is_linear(p)) p.value = cast(p.value, DType::F32);
    CHECK(quantise_frozen(*model) == 21);
  }
  model->params.prepare_training(compute);
  return model;
}

std::string in_golden(const Param& p) {
  return p.name.find(".lora_") == std::string::npos ? p.name : kPeft + p.name;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.dtype == b.dtype && a.nbytes() == b.nbytes() &&
         std::memcmp(a.data, b.data, a.nbytes()) == 0;
}

bool same_trained(Model& a, Model& b) {
  for (Param* p : a.params.trainable())
    if (!same_bytes(p->value, b.params.at(p->name).value)) return false;
  return true;
}

}  // namespace

TEST_CASE("pesc: five steps equal the authors' code, over a float32 and an NF4 base") {
  const std::vector<TrainRow> rows = golden_rows();
  for (bool nf4 : {false, true}) {
    CAPTURE(nf4);
    Checkpoint golden =
        Checkpoint::open(kDir + (nf4 ? "/golden_nf4.safetensors" : "/golden_f32.safetensors"));
    auto model = pesc_model(nf4, Compute::kF32);
    Tensor losses = golden.get("losses"), norms = golden.get("grad_norms");
    Ctx ctx = cpu_context(Compute::kF32);
    train(ctx, *model, rows, golden_options(), 0, [&](const StepLog& s) {
      CHECK(s.loss == doctest::Approx(losses.f32()[s.step - 1]).epsilon(1e-5).scale(0));
      CHECK(s.grad_norm == doctest::Approx(norms.f32()[s.step - 1]).epsilon(1e-4).scale(0));
      CHECK(s.load.size() == 3);
      if (s.step > 1) return true;
      for (Param* p : model->params.trainable()) {  // the gradients stand until the next step
        CAPTURE(p->name);
        Tensor want = golden.get("grad." + in_golden(*p));
        double diff = 0, top = 0;
        for (int64_t i = 0; i < want.numel(); ++i) {
          diff = std::max(diff, std::abs(static_cast<double>(p->sum.f32()[i]) - want.f32()[i]));
          top = std::max(top, std::abs(static_cast<double>(want.f32()[i])));
        }
        CHECK(top > 0);
        CHECK(diff <= 1e-4 * top);
      }
      return true;
    });
    auto start = pesc_model(nf4, Compute::kF32);
    int trained = 0;
    double diff = 0, change = 0;
    for (Param* p : model->params.trainable()) {
      Tensor want = golden.get("final." + in_golden(*p)), was = start->params.at(p->name).value;
      for (int64_t i = 0; i < want.numel(); ++i) {
        diff += std::pow(static_cast<double>(p->value.f32()[i]) - want.f32()[i], 2);
        change += std::pow(static_cast<double>(want.f32()[i]) - was.f32()[i], 2);
      }
      ++trained;
    }
    CHECK(trained == 3 * (1 + 2 * 5) + 2 * 21);
    CHECK(std::sqrt(diff / change) <= 1e-4);
  }
}

TEST_CASE("pesc: the balance loss weighs the same in any number of micro-batches of equal rows") {
  const std::vector<TrainRow> rows(8, golden_rows().front());
  Ctx ctx = cpu_context(Compute::kF32);
  for (LossMean mean : {LossMean::kTokens, LossMean::kMeans}) {
    CAPTURE(static_cast<int>(mean));
    auto norm = [&](int64_t grad_accum, double alpha) {
      auto model = pesc_model(false, Compute::kF32);
      TrainOptions o = golden_options();
      o.mean = mean;
      o.steps = 1;
      o.batch = 1;
      o.grad_accum = grad_accum;
      o.aux_alpha = alpha;
      double norm = 0;
      train(ctx, *model, rows, o, 0, [&](const StepLog& s) {
        norm = s.grad_norm;
        return true;
      });
      return norm;
    };
    const double one = norm(1, 10), none = norm(1, 0);
    CHECK(std::abs(one - none) > 0.01 * none);  // it is there
    for (int64_t accum : {2, 8})
      CHECK(norm(accum, 10) == doctest::Approx(one).epsilon(1e-5).scale(0));
  }
}

TEST_CASE("pesc: the same bits for any number of threads, recomputed, resumed; with dropout") {
  const std::vector<TrainRow> rows = golden_rows();
  Ctx ctx = cpu_context(Compute::kBF16);
  TrainOptions o = golden_options();
  o.steps = 4;
  o.aux_alpha = 0.01;
  auto run = [&](int threads, bool recompute, double dropout, int64_t until = 4) {
    set_num_threads(threads);
    auto model = pesc_model(true, Compute::kBF16, dropout);
    model->recompute = recompute;
    train(ctx, *model, rows, o, 0, [&](const StepLog& s) { return s.step < until; });
    CHECK(ctx.dropout == 0);  // of evaluation
    return model;
  };
  auto one = run(1, false, 0.1);
  for (int threads : {2, 4}) CHECK(same_trained(*one, *run(threads, false, 0.1)));
  CHECK(same_trained(*one, *run(2, true, 0.1)));
  CHECK_FALSE(same_trained(*one, *run(2, false, 0)));
  set_num_threads(physical_cores());
  auto half = run(2, false, 0.1, 2), rest = pesc_model(true, Compute::kBF16, 0.1);
  write_state("build/test-pesc-state", *half, 2, "run");
  CHECK(read_state("build/test-pesc-state", *rest, "run") == 2);
  train(ctx, *rest, rows, o, 2, [](const StepLog&) { return true; });
  CHECK(same_trained(*one, *rest));
}

TEST_CASE("pesc: an adapter brings the trained model back; the authors' is read too") {
  const std::vector<TrainRow> rows = golden_rows();
  Ctx ctx = cpu_context(Compute::kF32);
  auto model = pesc_model(false, Compute::kF32);
  train(ctx, *model, rows, golden_options(), 0, [](const StepLog&) { return true; });
  const LoraOptions lora{4, 6, pesc_lora_targets(), 0};
  write_adapter("build/test-pesc-adapter", *model, kDir + "/model", "", &lora);
  auto loaded = load_model(kDir + "/model");
  load_adapter(*loaded, "build/test-pesc-adapter");
  CHECK(same_trained(*model, *loaded));
  const double loss = evaluate_loss(ctx, *model, rows, 2);
  CHECK(evaluate_loss(ctx, *loaded, rows, 2) == loss);
  auto theirs = load_model(kDir + "/model");
  load_adapter(*theirs, kDir + "/authors/checkpoint-5");
  CHECK(evaluate_loss(ctx, *theirs, rows, 2) == doctest::Approx(loss).epsilon(1e-5).scale(0));
}

TEST_CASE("pesc: merged, the authors' checkpoint is their merged model") {
  if (binary() == nullptr) return;
  Folder f;
  Result r = run(f, "merge " + kDir + "/model --adapter " + kDir +
                        "/authors/checkpoint-5 --threads 1 --out " + (f / "merged"));
  CAPTURE(r.err);
  REQUIRE(r.code == 0);
  auto ours = load_model(f / "merged"), theirs = load_model(kDir + "/merged");
  int64_t elements = 0, other = 0;
  for (Param& p : ours->params.all()) {
    CAPTURE(p.name);
    const Tensor& want = theirs->params.at(p.name).value;
    REQUIRE(p.value.dtype == DType::BF16);
    REQUIRE(want.dtype == DType::BF16);
    if (!is_linear(p)) CHECK(same_bytes(p.value, want));  // nothing is folded in
    for (int64_t i = 0; i < want.numel(); ++i) {
      // They sum in float32 and round to bf16, ours is the nearest to the exact sum: where a sum
      // lies between two numbers the other neighbour may be theirs.
      const int a = p.value.as<bf16>()[i].bits, b = want.as<bf16>()[i].bits;
      CHECK(std::abs(a - b) <= 1);
      other += a != b;
      ++elements;
    }
  }
  MESSAGE(other << " of " << elements << " merged elements are the other neighbour");
  CHECK(other * 1000 <= elements);
  // Their logits of their merge.
  Checkpoint golden = Checkpoint::open(kDir + "/merged/golden.safetensors");
  Tensor ids = golden.get("input_ids"), logits = golden.get("logits");
  std::vector<std::vector<int32_t>> batch(static_cast<size_t>(ids.rows()));
  for (int64_t i = 0; i < ids.numel(); ++i)
    batch[static_cast<size_t>(i / ids.cols())].push_back(
        static_cast<int32_t>(ids.as<int64_t>()[i]));
  Ctx ctx = cpu_context(Compute::kF32);
  Tape tape(ctx, false);
  Trace none;
  Tensor got =
      logits_of(ctx, *theirs, theirs->hidden(tape, make_batch(batch), none, nullptr).value);
  double diff = 0, top = 0;
  for (int64_t i = 0; i < got.numel(); ++i) {
    diff = std::max(diff, std::abs(static_cast<double>(got.f32()[i]) - logits.f32()[i]));
    top = std::max(top, std::abs(static_cast<double>(logits.f32()[i])));
  }
  CHECK(diff <= 1e-5 * top);
}
