// Moments in 8 bits: bitsandbytes' own steps (tests/goldens/make_adamw8bit.py), which parameters
// have them, resume and thread counts, and the command line.
#include <doctest/doctest.h>

#include <filesystem>

#include "engine/optim.h"
#include "engine/ref/quant.h"
#include "io/safetensors.h"
#include "model/checkpoint.h"
#include "model/run_state.h"
#include "model/trainer.h"
#include "tests/command.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {

const std::string kGolden = "tests/goldens/adamw8bit/", kTiny = "tests/goldens/esft_train",
                  kModel = kTiny + "/model";

std::vector<TrainRow> rows() {
  std::vector<TrainRow> out(8);
  for (size_t r = 0; r < out.size(); ++r) {
    for (size_t t = 0; t < 24; ++t)
      out[r].ids.push_back(static_cast<int32_t>((r * 24 + t) * 2654435761u % 1024));
    out[r].labels = out[r].ids;
  }
  return out;
}

std::unique_ptr<Model> full_model(Compute compute, bool moments_8bit) {
  auto model = load_model(kModel);
  model->params.freeze_all();
  model->params.train("*");
  model->params.prepare_training(compute, {.moments_8bit = moments_8bit});
  return model;
}

TrainOptions options() {
  TrainOptions o;
  o.steps = 4;
  o.batch = 2;
  o.lr = 1e-3;
  return o;
}

void expect_same(Model& a, Model& b) {
  for (Param& p : a.params.all()) {
    Param& q = b.params.at(p.name);
    CAPTURE(p.name);
    CHECK(same_bits(p.value, q.value));
    for (auto [x, y] :
         {std::pair{&p.m, &q.m}, {&p.v, &q.v}, {&p.m_scale, &q.m_scale}, {&p.v_scale, &q.v_scale}})
      if (*x) CHECK(same_bits(*x, *y));
    CHECK(p.master.dtype == q.master.dtype);
    CHECK(std::memcmp(p.master.data, q.master.data, p.master.nbytes()) == 0);
  }
}

}  // namespace

TEST_CASE("adamw8bit: five steps equal bitsandbytes': weights, codes, scales, maps") {
  Checkpoint golden = Checkpoint::open(kGolden + "golden.safetensors");
  Json j = read_json_file(kGolden + "settings.json");
  auto real = [&](const char* key) { return get<double>(j, key, kGolden); };
  for (bool is_signed : {true, false}) {
    float map[256];
    ref::dynamic_map(map, is_signed);
    Tensor want = golden.get(is_signed ? "map1" : "map2");
    CHECK(std::memcmp(map, want.data, sizeof map) == 0);
  }
  ParamStore store;
  for (const char* name : {"large", "small"})
    store.add(name, clone(golden.get(std::string(name) + ".start")));
  store.train("*");
  store.prepare_training(Compute::kF32, {.moments_8bit = true});
  CHECK(store.at("large").m.dtype == DType::U8);
  CHECK(store.at("small").m.dtype == DType::F32);
  Ctx ctx = cpu_context(Compute::kF32);
  AdamWOptions opt{real("beta1"), real("beta2"), real("eps"), real("weight_decay")};
  for (int64_t t = 0; t < get<int64_t>(j, "steps", kGolden); ++t) {
    CAPTURE(t);
    auto at = [&](const std::string& name) {
      Tensor all = golden.get(name);
      Shape shape(all.shape.begin() + 1, all.shape.end());
      return clone(all.view({all.dim(0), all.numel() / all.dim(0)}).slice(t, t + 1)).view(shape);
    };
    for (Param* p : store.trainable()) copy_into(p->grad, at(p->name + ".grads"));
    adamw(ctx, store.trainable(), opt, real("lr"), 1, t + 1);
    for (Param* p : store.trainable())
      CHECK(near(dense(p->value), dense(at(p->name + ".values")), 1e-6));
    Param& p = store.at("large");
    CHECK(near(dense(p.m_scale), dense(at("large.absmax1")), 1e-6));
    CHECK(near(dense(p.v_scale), dense(at("large.absmax2")), 1e-6));
    CHECK(same_bits(p.m.view(p.value.shape), at("large.code1")));
    CHECK(same_bits(p.v.view(p.value.shape), at("large.code2")));
  }
}

TEST_CASE("adamw8bit: the same bits for 1, 2 and 4 threads, and after resume") {
  for (Compute compute : {Compute::kF32, Compute::kBF16}) {
    Ctx ctx = cpu_context(compute);
    auto run = [&](int threads) {
      set_num_threads(threads);
      auto model = full_model(compute, true);
      train(ctx, *model, rows(), options(), 0, [](const StepLog&) { return true; });
      return model;
    };
    auto whole = run(2);
    expect_same(*whole, *run(1));
    expect_same(*whole, *run(4));
    set_num_threads(physical_cores());

    auto first = full_model(compute, true), second = full_model(compute, true),
         wide = full_model(compute, false);
    train(ctx, *first, rows(), options(), 0, [](const StepLog& s) { return s.step < 2; });
    Folder f;
    write_state(f / "state", *first, 2, "run");
    CHECK_THROWS_AS(read_state(f / "state", *wide, "run"), Error);  // F32 moments cannot hold them
    // Beside bf16 weights a master is 16 bits; the checkpoint has both.
    const Param& head = first->params.at("lm_head.weight");
    CHECK(head.master.dtype == (compute == Compute::kBF16 ? DType::I16 : DType::F32));
    CHECK(Checkpoint::open(f / "state").has("value.lm_head.weight") == (compute == Compute::kBF16));
    CHECK(read_state(f / "state", *second, "run") == 2);
    expect_same(*first, *second);
    train(ctx, *second, rows(), options(), 2, [](const StepLog&) { return true; });
    expect_same(*whole, *second);
    train(ctx, *wide, rows(), options(), 0, [](const StepLog&) { return true; });
    // Much the same way: cosine of the two changes of the head.
    auto base = load_model(kModel);
    auto change = [&](Model& m) {
      Doubles to = dense(m.params.at("lm_head.weight").value),
              from = dense(base->params.at("lm_head.weight").value);
      for (size_t i = 0; i < to.size(); ++i) to[i] -= from[i];
      return to;
    };
    Doubles a = change(*whole), b = change(*wide);
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < a.size(); ++i) ab += a[i] * b[i], aa += a[i] * a[i], bb += b[i] * b[i];
    CHECK(ab / std::sqrt(aa * bb) > 0.95);
  }
}

TEST_CASE("adamw8bit: a checkpoint of 16-bit masters is the model it would export") {
  if (binary() == nullptr) return;
  Folder f;
  Result r = run(f, "train " + kModel + " --data " + kTiny +
                        "/rows.jsonl --seq 64 --threads 1 --quiet --optimizer adamw8bit --steps 2 "
                        "--save-every 2 --dtype bf16 --method full --lr 1e-3 --out " +
                        (f / "run"));
  CAPTURE(r.err);
  REQUIRE(r.code == 0);
  for (const char* at : {"run/model", "run/checkpoint-2"}) {
    Result q = run(f, "quantize " + (f / at) + " --quiet --out " + (f / "q") + at[4]);
    CAPTURE(q.err);
    REQUIRE(q.code == 0);
  }
  CHECK(read_file(f / "qm/model.safetensors") == read_file(f / "qc/model.safetensors"));
}

TEST_CASE("adamw8bit: train by every method, resume, estimate") {
  if (binary() == nullptr) return;
  Folder f;
  std::string common = "train " + kModel + " --data " + kTiny +
                       "/rows.jsonl --seq 64 --threads 1 --quiet --optimizer adamw8bit --steps 2 ";
  for (const std::string& method :
       {std::string("full"), "esft --experts " + kTiny + "/expert_cfg.json",
        std::string("lora --rank 64")}) {
    std::string name = method.substr(0, method.find(' '));
    Result r = run(f, common + "--method " + method + " --out " + (f / name));
    CAPTURE(r.err);
    CHECK(r.code == 0);
    // Experts of this model are too small: said, not refused.
    CHECK((r.err.find("moments stay in 32 bits") != r.err.npos) == (name == "esft"));
  }
  auto peak = [&](const std::string& optimizer) {
    Result r =
        run(f, "estimate " + kModel + " --method full --seq 64 --json --optimizer " + optimizer);
    CAPTURE(r.err);
    REQUIRE(r.code == 0);
    return get<int64_t>(parse_json(r.out, "estimate")["memory"], "moments", "estimate");
  };
  int64_t wide = peak("adamw"), narrow = peak("adamw8bit");
  CHECK(narrow < wide);
  CHECK(narrow > wide / 4);
}
