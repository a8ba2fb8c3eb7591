#include "model/trace.h"

#include "model/generate.h"

namespace sutor {
namespace {

struct Activations : Trace {
  std::string glob;
  NamedTensors* out;
  void activation(const std::string& name, const Tensor& t) override {
    if (!glob.empty() && glob_match(glob, name)) out->emplace_back("act." + name, clone(t));
  }
};

std::vector<std::vector<int32_t>> rows_of(const Checkpoint& in, const char* name, int64_t B,
                                          int64_t T, int64_t lowest, int64_t limit) {
  Tensor t = in.get(name);
  check(t.dtype == DType::I64 && t.shape == Shape({B, T}), "{}: {} must be I64 [{}, {}], is {} {}",
        in.path(), name, B, T, name_of(t.dtype), to_string(t.shape));
  std::vector<std::vector<int32_t>> rows(B, std::vector<int32_t>(T));
  for (int64_t i = 0; i < B * T; ++i) {
    int64_t v = t.as<int64_t>()[i];
    check(v >= lowest && v < limit, "{}: {}[{}, {}] is {}, must lie in {}..{}", in.path(), name,
          i / T, i % T, v, lowest, limit - 1);
    rows[i / T][i % T] = static_cast<int32_t>(v);
  }
  return rows;
}

// Padding before a row's first real token is hidden from the tokens after it; positions still count
// from the row's start.
void apply_mask(Batch& b, const std::vector<std::vector<int32_t>>& mask, const std::string& file) {
  b.real = empty(b.ids.shape, DType::I32);
  for (size_t r = 0; r < mask.size(); ++r) {
    int32_t T = static_cast<int32_t>(mask[r].size()), lo = 0, hi = T;
    std::copy(mask[r].begin(), mask[r].end(), b.real.i32() + b.rows[r]);
    while (lo < T && mask[r][lo] == 0) ++lo;
    while (hi > lo && mask[r][hi - 1] == 0) --hi;
    for (int32_t t = lo; t < hi; ++t)
      check(mask[r][t] != 0, "{}: attention_mask[{}, {}] is 0 between tokens that are seen", file,
            r, t);
    for (int32_t t = lo; t < T; ++t) b.start.i32()[b.rows[r] + t] = b.rows[r] + lo;
  }
}

Tensor scalar(float v) {
  Tensor t = empty({});
  t.f32()[0] = v;
  return t;
}

}  // namespace

NamedTensors trace_model(Ctx& ctx, Model& model, const Checkpoint& in,
                         const TraceRequest& request) {
  const std::string& file = in.path();
  check(in.has("input_ids"), "{}: has no input_ids", file);
  Tensor shape = in.get("input_ids");
  check(shape.shape.size() == 2 && shape.numel() > 0, "{}: input_ids must be I64 [B,T], is {}",
        file, to_string(shape.shape));
  int64_t B = shape.dim(0), T = shape.dim(1), V = model.config.vocab;
  auto ids = rows_of(in, "input_ids", B, T, 0, V);
  std::vector<std::vector<int32_t>> labels;
  if (in.has("labels")) labels = rows_of(in, "labels", B, T, -100, V);
  check(!labels.empty() || !(request.grads || request.aux),
        "{}: has no labels, which gradients need", file);
  Batch batch = make_batch(ids, labels);
  if (in.has("attention_mask"))
    apply_mask(batch, rows_of(in, "attention_mask", B, T, 0, 2), in.path());

  if (request.greedy > 0) {
    check(T >= 8, "{}: --greedy continues the first 8 ids of row 0, which has {}", file, T);
    // RoPE that stretches goes beyond what the model was made for, and is traced there.
    constexpr int64_t kBeyond = 4096;
    check(request.greedy <= model.config.max_positions + kBeyond,
          "--greedy {}: far more than max_position_embeddings {} of {}", request.greedy,
          model.config.max_positions, model.config.where);
  }
  NamedTensors out;
  Activations tap;
  tap.glob = request.activations;
  tap.out = &out;
  int64_t trained = 0;
  for (int64_t t = 0; t < B * T; ++t) trained += batch.targets.i32()[t] >= 0;
  check(labels.empty() || trained > 0, "{}: labels: no token is trained", file);
  float scale = labels.empty() ? 0.0f : static_cast<float>(1.0 / static_cast<double>(trained));

  if (request.grads || request.aux) {
    model.params.freeze_all();
    model.params.train("*");
    model.params.prepare_training(ctx.compute, {.optimizer = false});
  }
  float loss_value = 0;
  {
    Tape tape(ctx, request.grads);
    Var x = model.hidden(tape, batch, tap, nullptr);
    out.emplace_back("logits", logits_of(ctx, model, x.value).view({B, T, V}));
    if (!labels.empty()) {
      Var loss = lm_loss(x, model.head(), batch.targets, scale);
      loss_value = loss.value.f32()[0];
      out.emplace_back("loss", scalar(loss_value));
      if (request.grads) tape.backward({{loss, 1.0f}});
    }
  }
  check(request.activations.empty() || out.size() > (labels.empty() ? 1u : 2u),
        "no activation matches '{}'", request.activations);
  if (request.grads)
    for (Param& p : model.params.all())
      if (p.grad) out.emplace_back("grad." + p.name, clone(p.grad));
  if (request.aux) {
    model.params.zero_grads();
    Trace none;
    Tape tape(ctx, true);
    std::vector<Var> aux;
    Var loss = lm_loss(model.hidden(tape, batch, none, &aux), model.head(), batch.targets, scale);
    float alpha = static_cast<float>(model.config.aux_alpha), sum = 0;
    std::vector<std::pair<Var, float>> seeds{{loss, 1.0f}};
    for (const Var& v : aux) {
      sum += alpha * v.value.f32()[0];
      seeds.emplace_back(v, alpha);
    }
    tape.backward(seeds);
    out.emplace_back("aux_loss", scalar(sum));
    out.emplace_back("loss_with_aux", scalar(loss_value + sum));
    for (Param& p : model.params.all())
      if (p.grad) out.emplace_back("grad_aux." + p.name, clone(p.grad));
  }
  if (request.greedy > 0) {
    std::vector<int32_t> prompt(ids[0].begin(), ids[0].begin() + 8);
    Generation g = generate(ctx, model, prompt, request.greedy, {}, {});
    Tensor t = empty({1, 8 + request.greedy}, DType::I64);
    for (int64_t i = 0; i < 8 + request.greedy; ++i)
      t.as<int64_t>()[i] = i < 8 ? prompt[i] : g.ids[i - 8];
    out.emplace_back("greedy", t);
  }
  return out;
}

}  // namespace sutor
