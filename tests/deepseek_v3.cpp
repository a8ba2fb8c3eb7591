// DeepSeek-V3 beyond its goldens (tests/families.cpp): FP8 weights, the multi-token-prediction
// layer, the selection bias that never trains.
#include "io/safetensors.h"
#include "model/checkpoint.h"
#include "model/fp8.h"
#include "model/trace.h"
#include "tests/command.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {

const std::string kDir = "tests/goldens/deepseek_v3";

std::string error_of(const std::function<void()>& fn) {
  try {
    fn();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("deepseek_v3: FP8 blocks read as torch dequantises them, every code") {
  Checkpoint f = Checkpoint::open(kDir + "/fp8_blocks.safetensors");
  Tensor w = dequantised_fp8(f.get("w"), f.get("w_scale_inv"), "f", "w"), golden = f.get("golden");
  REQUIRE(w.dtype == DType::BF16);
  REQUIRE(w.shape == golden.shape);
  int wrong = 0, nan = 0;
  for (int64_t i = 0; i < w.numel(); ++i) {
    float a = static_cast<float>(w.as<bf16>()[i]), b = static_cast<float>(golden.as<bf16>()[i]);
    nan += std::isnan(b);
    wrong += std::isnan(b) ? !std::isnan(a) : w.as<bf16>()[i].bits != golden.as<bf16>()[i].bits;
  }
  CHECK(wrong == 0);
  CHECK(nan == 2);
  std::string e = error_of([&] { dequantised_fp8(f.get("w"), zeros({1, 3}), "file", "w"); });
  CHECK(e.find("w_scale_inv is F32 [1, 3]") != e.npos);
  CHECK(e.find("needs F32 [2, 3]") != e.npos);
}

TEST_CASE("deepseek_v3: an FP8 model is its dequantised self, and is written as bf16") {
  auto model = load_model(kDir + "/fp8");
  Checkpoint golden = Checkpoint::open(kDir + "/fp8/golden.safetensors");
  int compared = 0;
  for (const std::string& name : golden.names())
    if (name.starts_with("dequantised.")) {
      CAPTURE(name);
      CHECK(same_bits(model->params.at(name.substr(12)).value, golden.get(name)));
      ++compared;
    }
  CHECK(compared >= 6);
  Ctx ctx = cpu_context(Compute::kF32);
  for (auto& [name, t] : trace_model(ctx, *model, golden, {}))
    if (name == "logits" || name == "loss") CHECK(near(dense(t), dense(golden.get(name))));
  Folder f;
  write_model(f / "m", *model, kDir + "/fp8");
  CHECK_FALSE(read_json_file(f / "m/config.json").contains("quantization_config"));
  auto again = load_model(f / "m");
  for (const Param& p : model->params.all())
    CHECK(same_bits(p.value, again->params.at(p.name).value));
  // Without its scale, a weight cannot be read.
  std::string name = "model.layers.0.self_attn.o_proj.weight";
  std::string bytes = read_file(kDir + "/fp8/model.safetensors");
  bytes.replace(bytes.find(name + "_scale_inv"), name.size() + 10, name + "_scale_xyz");
  f.file("m/model.safetensors", bytes);
  std::string e = error_of([&] { load_model(f / "m"); });
  CHECK(e.find(name + " is F8_E4M3, but there is no " + name + "_scale_inv") != e.npos);
}

TEST_CASE("deepseek_v3: a scale beside a weight that is not FP8 stays to be seen") {
  Folder f;
  Json tensors = Json::object();
  int64_t at = 0;
  auto add = [&](const char* name, const char* dtype, int64_t bytes, int64_t columns) {
    tensors[name] = {{"dtype", dtype}, {"shape", {1, columns}}, {"data_offsets", {at, at + bytes}}};
    at += bytes;
  };
  add("a_scale_inv", "F32", 4, 1);
  add("b_scale_inv", "F32", 4, 1);
  add("a", "F8_E4M3", 2, 2);
  add("b", "BF16", 2, 1);
  std::string header = tensors.dump();
  uint64_t size = header.size();
  f.file("x.safetensors", std::string(reinterpret_cast<const char*>(&size), 8) + header +
                              std::string(static_cast<size_t>(at), 'x'));
  auto w = unpacked_fp8(std::make_shared<Checkpoint>(Checkpoint::open(f / "x.safetensors")));
  CHECK(w->names() == std::vector<std::string>{"b_scale_inv", "a", "b"});
}

TEST_CASE("deepseek_v3: the multi-token-prediction layer is left out, and said so") {
  auto model = load_model(kDir + "/full");
  REQUIRE(model->notices.size() == 1);
  CHECK(model->notices[0].find("4 tensors of the multi-token-prediction layers behind layer 1") !=
        std::string::npos);
  CHECK_FALSE(model->params.source);  // what the weights came from is let go
  Folder f;
  std::filesystem::copy(kDir + "/full", f / "m");
  Json config = read_json_file(kDir + "/full/config.json");
  config["num_nextn_predict_layers"] = 2147483647;
  f.file("m/config.json", config.dump());
  REQUIRE(load_model(f / "m")->notices.size() == 1);
  config["num_nextn_predict_layers"] = 0;
  f.file("m/config.json", config.dump());
  CHECK(error_of([&] { load_model(f / "m"); }).find("belongs to no part") != std::string::npos);
  if (binary() == nullptr) return;
  Result r = run(f, "inspect " + kDir + "/full --json");
  CHECK(r.code == 0);
  CHECK(r.err.find("left out") != std::string::npos);
}

TEST_CASE("deepseek_v3: the selection bias never trains") {
  auto model = load_model(kDir + "/full");
  const std::string bias = "model.layers.1.mlp.gate.e_score_correction_bias";
  model->params.train("*");
  CHECK_FALSE(model->params.at(bias).trainable);
  CHECK(model->params.at("model.layers.1.mlp.gate.weight").trainable);
  CHECK(error_of([&] { model->params.train(bias); }).find("is no weight that trains") !=
        std::string::npos);
  Tensor before = clone(model->params.at(bias).value);
  CHECK(same_bits(before, Checkpoint::open(kDir + "/full").get(bias)));
}
