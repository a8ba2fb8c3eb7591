#include "apps/bench_model.h"

#include <algorithm>
#include <cmath>

#include "apps/method_args.h"
#include "apps/run_checkpoint.h"
#include "engine/bench_timing.h"
#include "engine/dry_run.h"
#include "engine/quant.h"
#include "engine/random.h"
#include "model/estimate.h"
#include "model/generate.h"
#include "model/names.h"
#include "model/trainer.h"

namespace sutor {
namespace {

std::vector<int32_t> random_ids(int64_t n, int64_t vocab, uint64_t seed) {
  std::vector<int32_t> ids(n);
  for (int32_t& id : ids)
    id = static_cast<int32_t>(next_random(seed) % static_cast<uint64_t>(vocab));
  return ids;
}

double stored_bytes(const Tensor& t) {
  if (t.dtype != DType::NF4) return static_cast<double>(t.nbytes());
  const Nf4& w = nf4_of(t).nf4;
  return static_cast<double>(w.packed.nbytes() + w.absmax.nbytes());
}

// Of the matrices that a forward pass of many tokens, or of one in each of `sequences`, works with:
// elements (of one token) and bytes (with even routing).
struct Weights {
  double bytes = 0, active = 0, active_bytes = 0, head = 0;
};
Weights weights_of(Model& model, int64_t sequences = 1) {
  Weights w;
  const Config& c = model.config;
  for (const Param& p : model.params.all()) {
    const Role role = role_of(p.name);
    if (p.value.shape.size() != 2) continue;
    const bool head = &p == &model.head();
    if (role.part == Part::kEmbedding && !head) continue;
    double n = static_cast<double>(p.value.numel()), bytes = stored_bytes(p.value),
           share = role.expert >= 0 && c.experts > 0
                       ? c.route.top_k / static_cast<double>(c.experts)
                       : 1;
    w.bytes += bytes;
    w.active_bytes += (1 - std::pow(1 - share, sequences)) * bytes;
    (head ? w.head : w.active) += share * n;
  }
  return w;
}

}  // namespace

ModelTiming time_training(const Args& a, Ctx& ctx) {
  auto model = open_model(a);
  std::string expert_cfg;
  choose_what_trains(a, *model, expert_cfg);
  const int64_t batch = a.num("batch"), seq = a.num("seq"), vocab = model->config.vocab;
  std::vector<TrainRow> rows;
  std::vector<std::vector<int32_t>> ids, starts;
  for (int64_t i = 0; i < batch; ++i) {
    ids.push_back(random_ids(seq, vocab, static_cast<uint64_t>(i)));
    starts.emplace_back(seq, 0);
    rows.push_back({ids.back(), ids.back(), starts.back()});
  }
  // The useful products of such a step, counted by the model's own code over a dry copy.
  double flop = 0;
  {
    auto dry = dry_model(hub_folder(a.str("MODEL")), DType::BF16, ctx.compute);
    DryRun none;
    choose_what_trains(a, *dry, expert_cfg);
    Estimate e = estimate_training(*dry, {make_batch(ids, ids, starts)},
                                   {ctx.compute, false, false, {}, false});
    flop = e.product_flops + e.attention_flops;
  }
  model->params.prepare_training(ctx.compute, {.moments_8bit = a.str("optimizer") == "adamw8bit"});
  model->recompute = a.on("recompute");
  place_weights(a, *model, a.num("repeats") * 32);
  TrainOptions opt;
  opt.steps = 1 + a.num("repeats");
  opt.batch = batch;
  opt.shuffle = false;
  std::vector<double> seconds;
  train(ctx, *model, rows, opt, 0, [&](const StepLog& s) {
    if (s.step > 1) seconds.push_back(s.seconds);
    return true;
  });
  return {{{fmt::format("{} step, {} x {}", a.str("method"), batch, seq),
            static_cast<double>(batch * seq), timing::median(seconds), flop,
            2 * weights_of(*model).bytes}}};  // forward and dx
}

ModelTiming time_inference(const Args& a, Ctx& ctx) {
  auto model = open_model(a);
  const int64_t seq = a.num("seq"), more = a.num("max-tokens");
  check(seq + more <= model->config.max_positions,
        "{}: max_position_embeddings is {}, --seq {} and --max-tokens {} are more",
        model->config.where, model->config.max_positions, seq, more);
  place_weights(a, *model, more * a.num("repeats"));
  const int64_t together = a.num("batch");
  const Weights w = weights_of(*model, together);
  std::vector<Request> requests;  // of different tokens, which take different experts
  for (int64_t i = 0; i < together; ++i)
    requests.push_back(
        {random_ids(seq, model->config.vocab, static_cast<uint64_t>(i + 1)), more, {}});
  std::vector<double> prefill, decode;
  double tokens = 0;
  for (int64_t i = 0; i <= a.num("repeats"); ++i) {
    Generation g;  // the one that begins last: all decode beside it
    generate_together(ctx, *model, requests, together, {}, [&](size_t i, Generation done) {
      if (static_cast<int64_t>(i) + 1 == together) g = std::move(done);
    });
    if (i == 0) continue;
    prefill.push_back(g.prefill_seconds);
    decode.push_back(g.decode_seconds);
    tokens = static_cast<double>(g.decode_tokens);
  }
  const double read = static_cast<double>(seq);
  return {{{fmt::format("prefill of {}", seq), read, timing::median(prefill),
            2 * (w.active * read + w.head), w.bytes},
           {together == 1 ? fmt::format("decode of {}", more)
                          : fmt::format("decode of {} x {}", together, more),
            tokens * static_cast<double>(together), timing::median(decode),
            2 * (w.active + w.head) * tokens * static_cast<double>(together),
            w.active_bytes * tokens}}};
}

}  // namespace sutor
