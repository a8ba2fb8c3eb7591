// What every family must be able to do beside what its golden holds, on the goldens' models: train
// by every method with the same bits under recomputation, adapters there and back, LoRA merged,
// tokens one by one and in pieces as all at once, a dry run, new weights written and read.
#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <map>

#include "engine/dry_run.h"
#include "engine/parallel.h"
#include "io/safetensors.h"
#include "model/checkpoint.h"
#include "model/esft.h"
#include "model/estimate.h"
#include "model/family.h"
#include "model/generate.h"
#include "model/trainer.h"
#include "tests/command.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

namespace {

// The goldens that have weights, two at most of a family.
std::vector<std::string> models() {
  std::vector<std::string> dirs;
  for (const std::string& family : family_names()) {
    std::vector<std::string> of_family;
    for (const auto& e : fs::directory_iterator("tests/goldens/" + family))
      if (fs::exists(e.path() / "model.safetensors")) of_family.push_back(e.path().string());
    std::sort(of_family.begin(), of_family.end());
    dirs.insert(dirs.end(), of_family.begin(),
                of_family.begin() + std::min<size_t>(2, of_family.size()));
  }
  return dirs;
}

std::vector<TrainRow> rows() {
  std::vector<TrainRow> rows(4);
  for (int i = 0; i < 4 * 19; ++i) rows[i % 4].ids.push_back(i * 37 % 129);
  for (TrainRow& r : rows) r.labels = r.ids;
  return rows;
}

TrainOptions options() {
  TrainOptions o;
  o.steps = 3;
  o.batch = 2;
  o.lr = 1e-2;
  return o;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.nbytes() == b.nbytes() && std::memcmp(a.data, b.data, a.nbytes()) == 0;
}

bool same_weights(Model& a, Model& b) {
  for (Param& p : a.params.all())
    if (!same_bytes(p.value, b.params.at(p.name).value)) return false;
  return true;
}

// The two best experts of each MoE layer, by token score.
struct Collector : Trace {
  ScoreAccumulator acc;
  explicit Collector(const Config& c) : acc(static_cast<int>(c.experts), c.route.top_k, false) {}
  void routing(int layer, const Routing& r) override {
    acc.add(layer, r.expert.i32(), r.weight.value.f32(), r.expert.rows());
  }
};

ExpertConfig best_experts(Model& model) {
  Ctx ctx = cpu_context(Compute::kF32);
  Collector tap(model.config);
  Tape tape(ctx, false);
  std::vector<std::vector<int32_t>> ids;
  for (const TrainRow& r : rows()) ids.push_back(r.ids);
  model.hidden(tape, make_batch(ids), tap, nullptr);
  return select_experts(tap.acc.scores().token, 0.3);
}

Tensor logits(Model& model, Compute compute = Compute::kF32) {
  Ctx ctx = cpu_context(compute);
  Trace none;
  Tape tape(ctx, false);
  return logits_of(ctx, model,
                   model.hidden(tape, make_batch({rows()[0].ids}), none, nullptr).value);
}

// A model after three steps; `choose` marks what trains.
std::unique_ptr<Model> trained(const std::string& dir, const std::function<void(Model&)>& choose,
                               bool recompute, std::vector<double>* losses = nullptr) {
  auto model = load_model(dir);
  choose(*model);
  model->params.prepare_training(Compute::kBF16);
  model->recompute = recompute;
  Ctx ctx = cpu_context(Compute::kBF16);
  train(ctx, *model, rows(), options(), 0, [&](const StepLog& s) {
    if (losses) losses->push_back(s.loss);
    return true;
  });
  return model;
}

}  // namespace

TEST_CASE("families: full training, the same bits with recomputation") {
  for (const std::string& dir : models()) {
    CAPTURE(dir);
    std::vector<double> losses;
    auto all = [](Model& m) { m.params.train("*"); };
    auto plain = trained(dir, all, false, &losses), again = trained(dir, all, true);
    CHECK(losses.back() < losses.front());
    CHECK(same_weights(*plain, *again));
    auto base = load_model(dir);
    int changed = 0;
    for (Param& p : plain->params.all())
      changed += !same_bytes(p.value, base->params.at(p.name).value);
    CHECK(changed > static_cast<int>(plain->params.all().size()) / 2);
  }
}

TEST_CASE("families: ESFT trains the chosen experts alone; its adapter brings the model back") {
  Folder f;
  for (const std::string& dir : models()) {
    CAPTURE(dir);
    auto base = load_model(dir);
    if (base->config.moe_layers().empty()) {
      CHECK_THROWS_AS(
          check_expert_config({{{0, {0}}}, false, false}, base->config.moe_layers(), 0, "x", true),
          Error);
      continue;
    }
    ExpertConfig chosen = best_experts(*base);
    CHECK(chosen.experts.size() == base->config.moe_layers().size());
    auto mark = [&](Model& m) {
      for (const Param& p : m.params.all())
        if (trains(chosen, p.name)) m.params.train(p.name);
    };
    auto plain = trained(dir, mark, false), again = trained(dir, mark, true);
    CHECK(same_weights(*plain, *again));
    size_t expected = 0, changed = 0;
    for (const auto& [layer, ids] : chosen.experts)
      expected += (base->config.adapter_dim > 0 ? 2 : 3) * ids.size();
    for (Param& p : plain->params.all())
      changed += !same_bytes(p.value, base->params.at(p.name).value);
    CHECK(changed == expected);
    write_adapter(f / "esft", *plain, dir, to_json(chosen), nullptr);
    load_adapter(*base, f / "esft");
    CHECK(same_weights(*plain, *base));
    fs::remove_all(f / "esft");
  }
}

TEST_CASE("families: LoRA on every linear; its adapter and its merged weights give its logits") {
  Folder f;
  for (const std::string& dir : models()) {
    CAPTURE(dir);
    LoraOptions lora{3, 6, {}};
    auto add = [&](Model& m) { add_lora(m, lora, 1); };
    auto plain = trained(dir, add, false), again = trained(dir, add, true);
    CHECK(same_weights(*plain, *again));
    write_adapter(f / "lora", *plain, dir, "", &lora);
    auto loaded = load_model(dir);
    Tensor base = logits(*loaded);
    load_adapter(*loaded, f / "lora");
    fs::remove_all(f / "lora");
    Tensor want = logits(*plain);
    CHECK(same_bytes(logits(*loaded), want));
    CHECK(relative_max(base, want) > 1e-3);
    merge_unrounded(*loaded);
    CHECK(relative_max(logits(*loaded), want) <= 1e-5);
  }
}

TEST_CASE("families: tokens in pieces through the cache as all at once, alone and in a batch") {
  Ctx ctx = cpu_context(Compute::kF32);
  for (const std::string& dir : models()) {
    CAPTURE(dir);
    auto model = load_model(dir);
    std::vector<std::vector<int32_t>> ids{rows()[1].ids, rows()[0].ids};
    Trace none;
    Tape tape(ctx, false);
    int64_t n = static_cast<int64_t>(ids[1].size());
    Tensor all = model->hidden(tape, make_batch(ids), none, nullptr).value.slice(n, 2 * n);
    KvCache cache = model->make_cache(n);
    for (int64_t at = 0; at < n;) {
      int64_t step = std::min(n - at, at == 0 ? 7 : at == 7 ? 1 : at == 8 ? 9 : int64_t{2});
      std::vector<int32_t> piece(ids[1].begin() + at, ids[1].begin() + at + step);
      Tensor h = model->extend(ctx, cache, piece, step);
      CHECK(relative_max(h, all.slice(at, at + step)) <= 1e-5);
      at += step;
    }
    CHECK_THROWS_AS(model->extend(ctx, cache, {1}, 1), Error);
  }
}

TEST_CASE("families: with dynamic RoPE a token's angles do not depend on those fed with it") {
  Ctx ctx = cpu_context(Compute::kF32);
  auto weights = load_model("tests/goldens/llama/tied");
  auto model = make_model(
      read_config("tests/goldens/llama/rope_dynamic"),
      [&](const std::string& name, const Shape&) { return weights->params.at(name).value; });
  REQUIRE(model->config.max_positions == 12);
  std::vector<int32_t> ids = rows()[2].ids, first(ids.begin(), ids.begin() + 6);
  auto continued = [&](size_t together) {
    KvCache cache = model->make_cache(static_cast<int64_t>(ids.size()));
    model->extend(ctx, cache, first, 1);
    std::vector<float> out;
    for (size_t at = 6; at < ids.size(); at += together) {
      size_t end = std::min(ids.size(), at + together);
      int64_t n = static_cast<int64_t>(end - at);
      Tensor h = model->extend(
          ctx, cache,
          {ids.begin() + static_cast<int64_t>(at), ids.begin() + static_cast<int64_t>(end)}, n);
      out.insert(out.end(), h.f32(), h.f32() + h.numel());
    }
    return out;
  };
  std::vector<float> one = continued(1);
  CHECK(one == continued(2));
  CHECK(one == continued(4));
}

TEST_CASE(
    "families: the dry run knows the trainable parameters; new weights are written and read") {
  Folder f;
  for (const std::string& dir : models()) {
    CAPTURE(dir);
    auto dry = dry_model(dir + "/config.json", DType::BF16);
    {
      DryRun guard;
      dry->params.train("*");
    }
    int64_t parameters = 0;
    for (const Param& p : dry->params.all()) parameters += p.buffer ? 0 : p.value.numel();
    std::vector<std::vector<int32_t>> ids(2, std::vector<int32_t>(40, 1));
    Estimate e =
        estimate_training(*dry, {make_batch(ids, ids)}, {.compute = Compute::kBF16, .ids = {}});
    CHECK(e.trainable_parameters == parameters);
    CHECK(e.activations > 0);
    CHECK(e.product_flops > 0);
    Config config = read_config(dir);
    auto fresh = make_model(config, random_source(config, 1, DType::F32));
    write_model(f / "new", *fresh, dir);
    auto read = load_model(f / "new");
    CHECK(same_weights(*fresh, *read));
    for (float v : {logits(*read).f32()[0]}) CHECK(std::isfinite(v));
    fs::remove_all(f / "new");
  }
}
