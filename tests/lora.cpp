// LoRA against the dense model it stands for: with W + s B A as plain weights the loss is the same,
// and dA = s B^T dW, dB = s dW A^T. The dense gradients are checked against transformers in
// tests/families.cpp. Seen failing with the gate weight left out of dB of down.
#include "model/lora.h"

#include <doctest/doctest.h>

#include <cmath>

#include "engine/parallel.h"
#include "io/safetensors.h"
#include "model/trainer.h"

using namespace sutor;

namespace {

const std::string kDir = "tests/goldens/deepseek_v2/lite";

std::unique_ptr<Model> lora_model() {
  auto model = load_model(kDir);
  // up_proj and the shared experts' down_proj stay without, so that an expert has both kinds.
  add_lora(*model, {3, 6, {"*q_proj", "*o_proj", "*kv_*", "*gate_proj", "*.experts.*.down_proj"}},
           5);
  auto random = random_source(model->config, 9, DType::F32);
  for (Param& p : model->params.all())
    if (p.name.ends_with(".lora_B.weight")) p.value = random(p.name, p.value.shape);
  return model;
}

double backward(Model& model) {
  Ctx ctx = cpu_context(Compute::kF32);
  model.params.prepare_training(Compute::kF32, false);
  model.params.zero_grads();
  std::vector<std::vector<int32_t>> ids(2);
  for (int i = 0; i < 33; ++i) ids[i % 2].push_back(i * 37 % 129);
  Batch b = make_batch(ids, ids);
  Tape tape(ctx, true);
  Trace none;
  Var loss = lm_loss(model.hidden(tape, b, none, nullptr), model.head(), b.targets, 0.1f);
  tape.backward({{loss, 1.0f}});
  return loss.value.f32()[0];
}

// max |a - b| / max |b|, b = s X Y with X [n,m] read transposed if asked, Y [m,k] likewise.
double difference(const Tensor& a, const Tensor& x, bool xt, const Tensor& y, bool yt, double s) {
  double diff = 0, top = 0;
  for (int64_t i = 0; i < a.dim(0); ++i)
    for (int64_t j = 0; j < a.dim(1); ++j) {
      double sum = 0;
      for (int64_t m = 0; m < (xt ? x.dim(0) : x.dim(1)); ++m)
        sum +=
            static_cast<double>(xt ? x.row(m)[i] : x.row(i)[m]) * (yt ? y.row(j)[m] : y.row(m)[j]);
      diff = std::max(diff, std::abs(s * sum - a.row(i)[j]));
      top = std::max(top, std::abs(s * sum));
    }
  return top == 0 ? diff : diff / top;
}

}  // namespace

TEST_CASE("LoRA: loss and gradients equal the dense model's") {
  auto lora = lora_model(), dense = load_model(kDir);
  dense->params.freeze_all();
  for (Param& p : lora->params.all()) {
    if (!p.lora) continue;
    Param& w = dense->params.at(p.name);
    w.value = cast(p.value, DType::F32);
    Tensor a = cast(p.lora->a->value, DType::F32), b = cast(p.lora->b->value, DType::F32);
    for (int64_t n = 0; n < w.value.dim(0); ++n)
      for (int64_t r = 0; r < a.dim(0); ++r)
        for (int64_t k = 0; k < w.value.dim(1); ++k)
          w.value.row(n)[k] += p.lora->scale * b.row(n)[r] * a.row(r)[k];
    dense->params.train(p.name);
  }
  double l1 = backward(*lora), l2 = backward(*dense);
  CHECK(std::abs(l1 - l2) <= 1e-5 * std::abs(l2));
  int checked = 0;
  for (Param& p : lora->params.all()) {
    if (!p.lora) continue;
    CAPTURE(p.name);
    const Tensor dw = dense->params.at(p.name).grad;
    const Lora& l = *p.lora;
    CHECK(difference(l.a->grad, l.b->value, true, dw, false, l.scale) <= 1e-4);
    CHECK(difference(l.b->grad, dw, false, l.a->value, true, l.scale) <= 1e-4);
    ++checked;
  }
  CHECK(checked > 40);
}

TEST_CASE("LoRA: the number of threads changes no bit") {
  std::vector<float> first;
  int before = num_threads();
  for (int threads : {1, 2, 4}) {
    set_num_threads(threads);
    auto model = lora_model();
    std::vector<float> got{static_cast<float>(backward(*model))};
    for (Param* p : model->params.trainable())
      got.insert(got.end(), p->grad.f32(), p->grad.f32() + p->grad.numel());
    if (first.empty()) first = got;
    CHECK(got == first);
  }
  set_num_threads(before);
}

// Seen failing with dropout left out of the backward of either op.
TEST_CASE("LoRA: gradients with dropout are those of the loss with the same masks") {
  for (const char* which : {".lora_A.weight", ".lora_B.weight"}) {
    CAPTURE(which);
    auto model = lora_model();
    for (Param& p : model->params.all())
      if (p.lora) p.lora->dropout = 0.3F;
    Ctx ctx = cpu_context(Compute::kF32);
    ctx.dropout = 77;
    model->params.prepare_training(Compute::kF32, false);
    std::vector<std::vector<int32_t>> ids(2);
    for (int i = 0; i < 33; ++i) ids[i % 2].push_back(i * 37 % 129);
    const Batch b = make_batch(ids, ids);
    auto loss = [&](bool backward) {
      Tape tape(ctx, backward);
      Trace none;
      Var l = lm_loss(model->hidden(tape, b, none, nullptr), model->head(), b.targets, 1.0f);
      if (backward) tape.backward({{l, 1.0f}});
      return static_cast<double>(l.value.f32()[0]);
    };
    model->params.zero_grads();
    const double first = loss(true);
    CHECK(loss(false) == first);
    ctx.dropout = 78;
    CHECK(loss(false) != first);
    ctx.dropout = 77;
    // Along the gradient, so that the difference of two losses is as large as can be.
    double squares = 0;
    auto move = [&](double step) {
      for (Param* p : model->params.trainable())
        if (p->name.ends_with(which))
          for (int64_t i = 0; i < p->value.numel(); ++i)
            p->value.f32()[i] += static_cast<float>(step * p->grad.f32()[i]);
    };
    for (Param* p : model->params.trainable())
      if (p->name.ends_with(which))
        for (int64_t i = 0; i < p->grad.numel(); ++i)
          squares += static_cast<double>(p->grad.f32()[i]) * p->grad.f32()[i];
    const double step = 2e-3 / std::sqrt(squares);
    move(step);
    const double up = loss(false);
    move(-2 * step);
    const double down = loss(false);
    CHECK((up - down) / (2 * step * squares) == doctest::Approx(1).epsilon(0.01));
  }
}
