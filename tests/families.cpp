// Whole models of every family against goldens from transformers (tests/goldens/make_models.py,
// make_families.py): logits, loss, every gradient, greedy tokens through the KV cache, in float32
// and bf16; unround sizes on purpose. $SUTOR_FAMILIES_OUT: a file to which a JSON line per golden
// is appended (docs/families.md is made of them).
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "model/family.h"
#include "model/trace.h"
#include "tests/testing.h"

using namespace sutor;
using sutor::test::relative_max;
namespace fs = std::filesystem;

namespace {

double angle(const Tensor& a, const Tensor& b) {  // 1 - 2<a,b>/(|a|^2 + |b|^2)
  double ab = 0, aa = 0, bb = 0;
  for (int64_t i = 0; i < b.numel(); ++i) {
    double x = a.f32()[i], y = b.f32()[i];
    ab += x * y, aa += x * x, bb += y * y;
  }
  return 1 - 2 * ab / (aa + bb);
}

// Of a golden without weights of its own, those of the folder that its metadata name.
std::unique_ptr<Model> open(const std::string& dir) {
  auto metadata = SafetensorsFile(dir + "/golden.safetensors").metadata();
  auto at = metadata.find("weights");
  if (at == metadata.end()) return load_model(dir);
  auto weights = std::make_shared<Checkpoint>(
      Checkpoint::open(dir + "/../" + at->second + "/model.safetensors"));
  return make_model(read_config(dir), [weights](const std::string& name, const Shape& shape) {
    Tensor t = weights->get(name);
    check(t.shape == shape, "{}: {} for {}", name, to_string(t.shape), to_string(shape));
    return t;
  });
}

std::map<std::string, Tensor> traced(const std::string& dir, Compute compute,
                                     const TraceRequest& request) {
  Ctx ctx = cpu_context(compute);
  auto model = open(dir);
  std::map<std::string, Tensor> out;
  for (auto& [name, t] :
       trace_model(ctx, *model, Checkpoint::open(dir + "/golden.safetensors"), request))
    out[name] = t;
  return out;
}

struct Errors {
  double logits, loss, gradient = 0, bf16;
  int gradients = 0;
};

Errors compare(const std::string& dir) {
  Checkpoint golden = Checkpoint::open(dir + "/golden.safetensors");
  bool grads = golden.has("grad.model.norm.weight");
  auto out =
      traced(dir, Compute::kF32, {.grads = grads, .greedy = 16, .aux = false, .activations = ""});
  Errors e{relative_max(out.at("logits"), golden.get("logits")),
           relative_max(out.at("loss"), golden.get("loss")), 0,
           angle(traced(dir, Compute::kBF16, {}).at("logits"), golden.get("logits")), 0};
  CHECK(e.logits <= 1e-5);
  CHECK(e.loss <= 1e-5);
  CHECK(e.bf16 <= 1e-4);
  int own = 0;
  for (const auto& [name, t] : out) own += name.starts_with("grad.");
  for (const std::string& name : golden.names()) {
    if (!name.starts_with("grad.")) continue;
    CAPTURE(name);
    REQUIRE(out.count(name) == 1);
    double error = relative_max(out.at(name), golden.get(name));
    CHECK(error <= 1e-4);
    e.gradient = std::max(e.gradient, error);
    ++e.gradients;
  }
  CHECK(e.gradients == own);
  Tensor greedy = golden.get("greedy");
  for (int64_t i = 0; i < greedy.numel(); ++i)
    CHECK(out.at("greedy").as<int64_t>()[i] == greedy.as<int64_t>()[i]);
  return e;
}

}  // namespace

TEST_CASE("families: equal to transformers in float32 and close in bf16") {
  const char* table = std::getenv("SUTOR_FAMILIES_OUT");
  for (const std::string& family : family_names()) {
    std::set<std::string> models;
    for (const auto& entry : fs::directory_iterator("tests/goldens/" + family))
      if (entry.is_directory()) models.insert(entry.path().filename().string());
    int with_gradients = 0;
    for (const std::string& model : models) {
      std::string dir = "tests/goldens/" + family + "/" + model;
      CAPTURE(dir);
      Errors e = compare(dir);
      with_gradients += e.gradients > 0;
      if (table == nullptr) continue;
      Json row{{"family", family},     {"model", model},         {"logits", e.logits},
               {"loss", e.loss},       {"gradient", e.gradient}, {"gradients", e.gradients},
               {"bf16_angle", e.bf16}, {"greedy", true}};
      std::ofstream(table, std::ios::app) << row.dump() << "\n";
    }
    CAPTURE(family);
    CHECK(with_gradients >= 1);
  }
}
