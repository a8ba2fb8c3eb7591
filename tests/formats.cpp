// One model, every format and layout of experts: the same weights, bit by bit.
#include <filesystem>

#include "io/safetensors.h"
#include "model/model.h"
#include "tests/command.h"
#include "tests/corruption.h"
#include "tests/testing.h"
#include "tests/torch_writer.h"

using namespace sutor;
using namespace sutor::test;

namespace {

const std::string kModel = "tests/goldens/deepseek_v2/plain";

void same_weights(const std::string& folder) {
  CAPTURE(folder);
  auto a = load_model(kModel), b = load_model(folder);
  for (const Param& p : a->params.all()) {
    CAPTURE(p.name);
    CHECK(same_bits(p.value, b->params.at(p.name).value));
  }
}

NamedTensors all() {
  NamedTensors out;
  Checkpoint c = Checkpoint::open(kModel);
  for (const std::string& name : c.names()) out.emplace_back(name, c.get(name));
  return out;
}

Tensor transposed(const Tensor& t) {  // [E,R,C] -> [E,C,R]
  Tensor out = empty({t.dim(0), t.dim(2), t.dim(1)}, DType::BF16);
  for (int64_t e = 0; e < t.dim(0); ++e)
    for (int64_t r = 0; r < t.dim(1); ++r)
      for (int64_t c = 0; c < t.dim(2); ++c)
        out.as<bf16>()[(e * t.dim(2) + c) * t.dim(1) + r] =
            t.as<bf16>()[(e * t.dim(1) + r) * t.dim(2) + c];
  return out;
}

// transformers' fused layout.
NamedTensors fused(bool turned) {
  Checkpoint c = Checkpoint::open(kModel);
  auto model = load_model(kModel);
  const Config& config = model->config;
  int64_t E = config.experts, H = config.hidden, I = config.expert_width;
  NamedTensors out;
  for (const std::string& name : c.names())
    if (name.find(".experts.") == name.npos) out.emplace_back(name, c.get(name));
  for (int layer : config.moe_layers()) {
    std::string at = fmt::format("model.layers.{}.mlp.experts", layer);
    Tensor gate_up = empty({E, 2 * I, H}, DType::BF16), down = empty({E, H, I}, DType::BF16);
    for (int64_t e = 0; e < E; ++e) {
      auto put = [&](Tensor to, const char* what) {
        Tensor from = c.get(fmt::format("{}.{}.{}_proj.weight", at, e, what));
        copy_into(to.view(from.shape), from);
      };
      put(gate_up.slice(e, e + 1).view({2 * I, H}).slice(0, I), "gate");
      put(gate_up.slice(e, e + 1).view({2 * I, H}).slice(I, 2 * I), "up");
      put(down.slice(e, e + 1), "down");
    }
    out.emplace_back(at + ".gate_up_proj", turned ? transposed(gate_up) : gate_up);
    out.emplace_back(at + ".down_proj", turned ? transposed(down) : down);
  }
  return out;
}

struct ModelFolder : Folder {
  ModelFolder() { std::filesystem::copy_file(kModel + "/config.json", *this / "config.json"); }
  std::string load(const NamedTensors& tensors) {
    write_checkpoint(path, tensors);
    return error_of([&] { load_model(path); });
  }
};

}  // namespace

TEST_CASE("formats: torch .bin, whole and sharded") {
  ModelFolder f;
  NamedTensors tensors = all();
  f.file("pytorch_model.bin", torch_of(tensors));
  same_weights(f.path);
  std::filesystem::remove(f / "pytorch_model.bin");
  Json map = Json::object();
  for (size_t i = 0; i < tensors.size(); ++i) map[tensors[i].first] = i < 3 ? "a-1.bin" : "a-2.bin";
  f.file("pytorch_model.bin.index.json", Json{{"weight_map", map}}.dump());
  f.file("a-1.bin", torch_of({tensors.begin(), tensors.begin() + 3}));
  f.file("a-2.bin", torch_of({tensors.begin() + 3, tensors.end()}));
  same_weights(f.path);
}

TEST_CASE("formats: layouts of experts") {
  ModelFolder f;
  CHECK(f.load(fused(false)) == "no error");
  same_weights(f.path);
  // Views: the fused tensor is in the file once, and nowhere else.
  auto model = load_model(f.path);
  const Param& gate = model->params.at("model.layers.1.mlp.experts.1.gate_proj.weight");
  const Param& up = model->params.at("model.layers.1.mlp.experts.1.up_proj.weight");
  CHECK(gate.value.data + gate.value.nbytes() == up.value.data);
  CHECK(f.load(fused(true)) == "no error");
  same_weights(f.path);
  NamedTensors renamed = all();
  for (auto& [name, t] : renamed)
    for (auto [from, to] : {std::pair{"gate_proj", "w1"}, {"up_proj", "w3"}, {"down_proj", "w2"}})
      if (size_t at = name.find(".mlp.experts."); at != name.npos && name.find(from) != name.npos) {
        name.replace(name.find(from), std::string(from).size(), to);
        name.replace(at, 4, ".block_sparse_moe");
      }
  CHECK(f.load(renamed) == "no error");
  same_weights(f.path);
}

TEST_CASE("formats: layouts that cannot be told apart, or fit nothing") {
  ModelFolder f;
  auto with = [](int64_t E, Shape g, Shape d, bool both = true) {
    NamedTensors t{{"model.layers.1.mlp.experts.gate_up_proj", zeros({E, g[0], g[1]})}};
    if (both) t.emplace_back("model.layers.1.mlp.experts.down_proj", zeros({E, d[0], d[1]}));
    return t;
  };
  auto fails = [&](const NamedTensors& t, const char* with) {
    std::string e = f.load(t);
    CAPTURE(e);
    CHECK(e.find(with) != std::string::npos);
  };
  fails(with(2, {8, 5}, {4, 5}), "are neither");
  fails(with(2, {8, 8}, {4, 4}), "are neither");
  fails(with(2, {0, 0}, {0, 0}), "are no fused experts");
  fails(with(int64_t{1} << 40, {2, 0}, {0, 1}), "are no fused experts");
  fails(with(2, {2, 0}, {0, int64_t{1} << 62}), "are no fused experts");
  fails(with(2, {8, 8}, {8, 4}, false), "fused experts come in pairs");
  NamedTensors twice = all();
  for (auto& t : fused(false))
    if (t.first.ends_with("down_proj") || t.first.ends_with("gate_up_proj")) twice.push_back(t);
  fails(twice, "is there twice, in two layouts");
}
