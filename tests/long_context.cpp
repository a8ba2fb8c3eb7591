// Memory grows with the tokens and not with their square: attention's kernels, a training step and
// a prompt that is read, twice the tokens each time. Counted in heap tensors; seen failing on a
// T x T tensor in attention_fwd, and on one in attention_bwd.
#include "engine/dry_run.h"
#include "engine/ops.h"
#include "model/estimate.h"
#include "model/trainer.h"
#include "tests/command.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {

std::vector<Json> configs() {
  const Json both{{"vocab_size", 512},        {"hidden_size", 64},
                  {"num_hidden_layers", 2},   {"intermediate_size", 96},
                  {"num_attention_heads", 4}, {"max_position_embeddings", 32768}};
  Json llama = both, deepseek = both;
  llama.update({{"model_type", "llama"}, {"num_key_value_heads", 2}});
  deepseek.update({{"model_type", "deepseek_v2"},
                   {"n_routed_experts", 8},
                   {"num_experts_per_tok", 2},
                   {"n_shared_experts", 1},
                   {"moe_intermediate_size", 32},
                   {"first_k_dense_replace", 1},
                   {"kv_lora_rank", 32},
                   {"qk_nope_head_dim", 16},
                   {"qk_rope_head_dim", 8},
                   {"v_head_dim", 16}});
  return {llama, deepseek};
}

std::vector<int32_t> some_ids(int64_t n) {
  std::vector<int32_t> ids(n);
  for (int64_t t = 0; t < n; ++t) ids[t] = static_cast<int32_t>(t * 40503 % 512);
  return ids;
}

// Bytes of the heap that a call takes at the most, on one thread: how many heads are worked on at
// once is chance on more.
template <class F>
double peak_of(F&& call) {
  set_num_threads(1);
  const int64_t before = memory_stats().live;
  reset_memory_peak();
  call();
  set_num_threads(physical_cores());
  return static_cast<double>(memory_stats().peak - before);
}

// `bytes`(tokens) for each of these, at most 2.2 times those of half as many.
template <class F>
void check_linear(std::initializer_list<int64_t> tokens, F&& bytes) {
  double last = 0;
  for (int64_t T : tokens) {
    const double now = bytes(T);
    CAPTURE(T);
    CAPTURE(now);
    CAPTURE(last);
    CHECK(now > 0);
    if (last > 0) CHECK(now < 2.2 * last);
    last = now;
  }
}

}  // namespace

TEST_CASE("long contexts: attention forward and backward take memory in proportion to tokens") {
  Ctx ctx = cpu_context(Compute::kF32);
  check_linear({512, 1024, 2048}, [&](int64_t T) {
    return peak_of([&] {
      Tape tape(ctx, true);
      Var q = tape.leaf(random({T * 4, 16}, 1)), k = tape.leaf(random({T * 2, 16}, 2)),
          v = tape.leaf(random({T * 2, 16}, 3));
      Var o = attention(q, k, v, {}, 4, 2, 0.25f);
      tape.backward(std::vector<Var>{o}, {random({T * 4, 16}, 4)});
      CHECK(q.grad());
    });
  });
}

TEST_CASE("long contexts: training steps and prompts of 32768 tokens need no T x T") {
  for (const Json& json : configs()) {
    CAPTURE(json["model_type"].get<std::string>());
    Folder f;
    const std::string file = f.file("config.json", json.dump());
    const Config c = read_config(file);
    Ctx ctx = cpu_context(Compute::kBF16);
    auto model = make_model(c, random_source(c, 1, DType::BF16));
    check_linear({512, 1024, 2048}, [&](int64_t T) {
      return peak_of([&] {
        KvCache cache = model->make_cache(T);
        model->extend(ctx, cache, some_ids(T), 1);
      });
    });
    model->params.train("*");
    model->params.prepare_training(Compute::kBF16);
    check_linear({512, 1024}, [&](int64_t T) {
      TrainOptions opt;
      opt.steps = opt.batch = 1;
      return peak_of([&] {
        train(ctx, *model, {{some_ids(T), some_ids(T), {}}}, opt, 0,
              [](const StepLog&) { return true; });
      });
    });
    for (bool recompute : {false, true})  // what the real kernels allocate: tests/estimate.cpp
      check_linear({8192, 16384, 32768}, [&](int64_t T) {
        auto dry = dry_model(file, DType::BF16);
        {
          DryRun none;
          dry->params.train("*");
        }
        Estimate e = estimate_training(*dry, {make_batch({some_ids(T)}, {some_ids(T)})},
                                       {Compute::kBF16, recompute, false, {}, false});
        CHECK(e.activations + e.step < 4 * T * T);
        return static_cast<double>(e.activations + e.step);
      });
  }
}
