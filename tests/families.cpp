// Whole models against goldens from transformers (tests/goldens/make_models.py): logits, loss,
// every gradient, greedy tokens, in float32 and bf16; unround sizes on purpose.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "model/trace.h"

using namespace sutor;
namespace fs = std::filesystem;

namespace {

double relative_max(const Tensor& a, const Tensor& b) {
  double diff = 0, top = 0;
  for (int64_t i = 0; i < b.numel(); ++i) {
    diff = std::max(diff, std::abs(static_cast<double>(a.f32()[i]) - b.f32()[i]));
    top = std::max(top, std::abs(static_cast<double>(b.f32()[i])));
  }
  return top == 0 ? diff : diff / top;
}

double angle(const Tensor& a, const Tensor& b) {  // 1 - 2<a,b>/(|a|^2 + |b|^2)
  double ab = 0, aa = 0, bb = 0;
  for (int64_t i = 0; i < b.numel(); ++i) {
    double x = a.f32()[i], y = b.f32()[i];
    ab += x * y, aa += x * x, bb += y * y;
  }
  return 1 - 2 * ab / (aa + bb);
}

std::map<std::string, Tensor> traced(const std::string& dir, Compute compute,
                                     const TraceRequest& request) {
  Ctx ctx = cpu_context(compute);
  auto model = load_model(dir);
  std::map<std::string, Tensor> out;
  for (auto& [name, t] :
       trace_model(ctx, *model, Checkpoint::open(dir + "/golden.safetensors"), request))
    out[name] = t;
  return out;
}

}  // namespace

TEST_CASE("deepseek_v2: equal to transformers in float32 and close in bf16") {
  int models = 0;
  for (const auto& entry : fs::directory_iterator("tests/goldens/deepseek_v2")) {
    if (!entry.is_directory()) continue;
    std::string dir = entry.path().string();
    CAPTURE(dir);
    ++models;
    Checkpoint golden = Checkpoint::open(dir + "/golden.safetensors");
    auto out = traced(dir, Compute::kF32,
                      {.grads = golden.has("grad.model.norm.weight"),
                       .greedy = 16,
                       .aux = false,
                       .activations = ""});
    CHECK(relative_max(out.at("logits"), golden.get("logits")) <= 1e-5);
    CHECK(relative_max(out.at("loss"), golden.get("loss")) <= 1e-5);
    int gradients = 0;
    for (const std::string& name : golden.names()) {
      if (!name.starts_with("grad.")) continue;
      CAPTURE(name);
      REQUIRE(out.count(name) == 1);
      CHECK(relative_max(out.at(name), golden.get(name)) <= 1e-4);
      ++gradients;
    }
    int own = 0;
    for (const auto& [name, t] : out) own += name.starts_with("grad.");
    if (gradients > 0) CHECK(gradients == own);
    Tensor greedy = golden.get("greedy");
    for (int64_t i = 0; i < greedy.numel(); ++i)
      CHECK(out.at("greedy").as<int64_t>()[i] == greedy.as<int64_t>()[i]);
    auto half = traced(dir, Compute::kBF16, {});
    CHECK(angle(half.at("logits"), golden.get("logits")) <= 1e-4);
  }
  CHECK(models >= 3);
}
