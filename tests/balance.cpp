// Balance losses of whole models against transformers (tests/goldens/make_aux.py): the loss over
// all layers' unpadded tokens (PESC models: each layer's, against engine/ref/balance.h), and its
// gradient on top of the language model's; who trains with one and who does not.
#include <cmath>
#include <filesystem>
#include <map>

#include "engine/ref/balance.h"
#include "io/safetensors.h"
#include "model/trace.h"
#include "tests/command.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

TEST_CASE("balance: every family's loss and gradients equal transformers', with padding") {
  int families = 0;
  for (const auto& entry : fs::directory_iterator("tests/goldens/aux")) {
    std::string dir = entry.path().string();
    CAPTURE(dir);
    ++families;
    Ctx ctx = cpu_context(Compute::kF32);
    auto model = load_model(dir);
    CHECK(model->config.aux == AuxLoss::kSwitch);
    CHECK(model->config.aux_asked);
    Checkpoint golden = Checkpoint::open(dir + "/golden.safetensors");
    for (bool recompute : {false, true}) {
      model->recompute = recompute;
      std::map<std::string, Tensor> out;
      TraceRequest request;
      request.aux = true;
      for (auto& [name, t] : trace_model(ctx, *model, golden, request)) out[name] = t;
      for (const char* key : {"loss", "aux_loss", "loss_with_aux"}) {
        CAPTURE(key);
        CHECK(near(dense(out.at(key)), dense(golden.get(key))));
      }
      int gradients = 0;
      for (const std::string& name : golden.names()) {
        if (!name.starts_with("grad_aux.")) continue;
        CAPTURE(name);
        REQUIRE(out.count(name) == 1);
        bool router = name.ends_with(".gate.weight");
        CHECK(near(dense(out.at(name)), dense(golden.get(name)), router ? 1e-5 : 1e-4));
        ++gradients;
      }
      CHECK(gradients >= 8);
    }
  }
  CHECK(families == 4);
}

TEST_CASE("balance: of a PESC model every layer's, as its paper adds it") {
  Ctx ctx = cpu_context(Compute::kF32);
  auto model = load_model("tests/goldens/camelidae/unit");
  const int64_t E = model->config.experts, K = model->config.route.top_k;
  struct Layers : Trace {
    std::vector<double> losses;
    void routing(int, const Routing& r) override {
      Doubles probs = dense(r.probs.value);
      const int64_t tokens = r.expert.rows(), experts = r.probs.value.cols();
      losses.push_back(ref::switch_balance<double>({probs.data()}, {r.expert.i32()}, nullptr,
                                                   tokens, experts, r.expert.cols()) /
                       static_cast<double>(r.expert.cols()));
    }
  } layers;
  Tape tape(ctx, true);
  std::vector<Var> aux;
  Batch batch = make_batch({{5, 9, 17, 3, 22, 8, 30, 11, 2, 41, 7, 19}});
  model->hidden(tape, batch, layers, &aux);
  REQUIRE(aux.size() == layers.losses.size());
  CHECK(static_cast<int>(aux.size()) == model->config.layers);
  for (size_t l = 0; l < aux.size(); ++l) {
    CHECK(aux[l].value.f32()[0] == doctest::Approx(layers.losses[l]).epsilon(1e-5));
    CHECK(aux[l].value.f32()[0] <= static_cast<double>(E) / static_cast<double>(K) + 1e-5);
  }
}

TEST_CASE("balance: on by default where the router trains and config.json asks, else said") {
  if (binary() == nullptr) return;
  const std::string kModel = "tests/goldens/esft_train/model";
  Folder f;
  auto train = [&](const std::string& more) {
    Result r = run(f, "train " + kModel + " --data tests/goldens/esft_train/rows.jsonl --seq 64" +
                          " --steps 1 --threads 1 --out " + (f / "run") + " " + more);
    CAPTURE(r.err);
    REQUIRE(r.code == 0);
    std::string text = read_file(f / "run/log.jsonl");
    Json j = parse_json(text.substr(0, text.find('\n')), "log");
    fs::remove_all(f / "run");
    return std::pair<double, std::string>(j["config"]["aux-loss"].get<double>(), r.err);
  };
  auto [full, on] = train("--method full");
  CHECK(full == 0.001);
  CHECK(on.find("balance loss 0.001 of the router") != std::string::npos);
  auto [lora, off] = train("--method lora");
  CHECK(lora == 0);
  CHECK(off.find("balance loss off: the router is frozen (--aux-loss 0.001") != std::string::npos);
  auto [asked, silent] = train("--method lora --aux-loss 0.5");
  CHECK(asked == 0.5);
  CHECK(silent.find("balance loss") == std::string::npos);
  CHECK(train("--method full --aux-loss 0").first == 0);
}

TEST_CASE("scores: of every kind of router; --normalise-gate makes gate scores comparable") {
  if (binary() == nullptr) return;
  struct Row {
    const char* model;
    bool sums_to_one;  // the family renormalises
  };
  for (const Row& row :
       {Row{"deepseek_v2/full", false}, Row{"deepseek_v3/full", true},
        Row{"deepseek_v3/lite", false}, Row{"aux/mixtral", true}, Row{"aux/qwen2_moe", false},
        Row{"aux/qwen3_moe", true}, Row{"aux/olmoe", false}}) {
    CAPTURE(row.model);
    Folder f;
    fs::copy(std::string("tests/goldens/") + row.model, f / "m");
    for (const char* file : {"tokenizer.json", "tokenizer_config.json"})
      fs::copy(std::string("tests/goldens/esft_train/model/") + file, f / "m");
    std::string ids;
    for (int i = 0; i < 30; ++i) ids += fmt::format("{}{}", i ? "," : "", i * 11 % 37);
    f.file("d.jsonl", "{\"input_ids\":[" + ids + "],\"labels\":[" + ids + "]}\n");
    auto scores = [&](const std::string& more) {
      Result r = run(f, "score " + (f / "m") + " --data " + (f / "d.jsonl") +
                            " --dtype f32 --out " + (f / "s.json") + " --quiet " + more);
      CAPTURE(r.err);
      REQUIRE(r.code == 0);
      return read_json_file(f / "s.json");
    };
    Json plain = scores(""), normal = scores("--normalise-gate");
    CHECK(plain["token_scores"] == normal["token_scores"]);
    for (const char* kind : {"token_scores", "gate_scores"})
      for (const auto& [layer, experts] : normal[kind].items()) {
        double sum = 0, raw = 0;
        for (const auto& [e, x] : experts.items()) {
          sum += x.get<double>();
          raw += plain[kind][layer][e].get<double>();
        }
        CAPTURE(kind);
        CHECK(std::abs(sum - 1) < 1e-3);  // written with 4 decimals
        if (kind == std::string("gate_scores"))
          CHECK((std::abs(raw - 1) < 1e-3) == row.sums_to_one);
      }
  }
}
