// sutor estimate: peak memory and time of a training run, before anything runs.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/data_args.h"
#include "apps/estimate_scaling.h"
#include "apps/method_args.h"
#include "apps/run_checkpoint.h"
#include "apps/table.h"
#include "engine/cpu/peaks.h"
#include "engine/dry_run.h"
#include "engine/parallel.h"
#include "io/memory.h"
#include "model/estimate.h"
#include "model/placement.h"

namespace sutor {
namespace fs = std::filesystem;
namespace {

// What training steps reach of the rate that the micro-kernels reach in the first-level cache:
// packing, element-wise work and memory take the rest. Rough.
constexpr double kReached = 0.5;

void declare(Args& a) {
  a.positional("MODEL", "hub folder, a run's checkpoint-N, or a config.json alone");
  a.common();
  declare_data(a, true);
  declare_method(a);
  a.choice("weights", "type of the weights when MODEL has none", "BF16", {"BF16", "F32"});
  a.integer("steps", "optimiser steps", 100, 1, 1 << 30);
  a.integer("batch", "rows per micro-batch", 1, 1, 1 << 20);
  a.integer("grad-accum", "micro-batches per step", 1, 1, 1 << 20);
  a.integer("seq", "tokens per row; without --data every row is full and every token trained", 4096,
            2, 1 << 20);
  a.choice("packing", "of --data, as in sutor train", "documents",
           {"documents", "none", "esft-compat"});
  default_format(a);
  declare_balance_loss(a);
  a.choice("optimizer", "as in sutor train", "adamw", {"adamw", "adamw8bit"});
  a.flag("recompute", "keep only block inputs for backward");
  declare_scaling(a);
}

int64_t machine_bytes() { return sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE); }

// One step's micro-batches. Of data: the longest rows first, as a run meets them sooner or later.
std::vector<Batch> micro_batches(const Args& a, const std::string& hub, const Config& c,
                                 std::vector<int32_t>& all_ids) {
  int64_t batch = a.num("batch"), accum = a.num("grad-accum"), seq = a.num("seq");
  std::vector<std::vector<int32_t>> ids, labels, starts;
  if (a.given("data")) {
    check(fs::is_directory(hub), "{}: --data needs the tokenizer of a model folder", hub);
    Tokenizer tok = Tokenizer::load(hub);
    int64_t truncated = 0;
    const std::vector<Example> examples = load_examples(a, a.str("data"), tok);
    check_packing(a, examples);
    std::vector<TrainRow> rows =
        pack(examples, packing_of(a), seq, tok.eos(), pack_seed_of(a), truncated);
    check(!rows.empty(), "{}: no rows to train on", a.str("data"));
    std::stable_sort(rows.begin(), rows.end(), [](const TrainRow& x, const TrainRow& y) {
      return x.ids.size() > y.ids.size();
    });
    for (const TrainRow& r : rows) all_ids.insert(all_ids.end(), r.ids.begin(), r.ids.end());
    for (int64_t i = 0; i < batch * accum; ++i) {
      TrainRow& r = rows[i % static_cast<int64_t>(rows.size())];
      ids.push_back(r.ids);
      labels.push_back(r.labels);
      starts.push_back(r.start.empty() ? std::vector<int32_t>(r.ids.size(), 0) : r.start);
    }
  } else {
    for (int64_t i = 0; i < batch * accum; ++i) {
      auto& row = ids.emplace_back(seq);
      for (int64_t t = 0; t < seq; ++t)
        row[t] = static_cast<int32_t>(static_cast<uint64_t>(i * seq + t) * 2654435761u %
                                      static_cast<uint64_t>(c.vocab));
      starts.emplace_back(seq, 0);
    }
    labels = ids;
  }
  std::vector<Batch> out;
  for (int64_t m = 0; m < accum; ++m) {
    auto part = [&](const auto& v) {
      return std::vector(v.begin() + m * batch, v.begin() + (m + 1) * batch);
    };
    out.push_back(make_batch(part(ids), part(labels), part(starts)));
  }
  return out;
}

void run(const Args& a) {
  for (const char* o : {"format", "date", "skip-bad-rows", "packing", "seed"})
    a.no_effect_unless(a.given("data"), o, "there is no --data");
  const std::string& path = a.str("MODEL");
  bool checkpoint = is_run_checkpoint(path);
  a.no_effect_unless(!checkpoint && !has_weights(path), "weights", "MODEL has weights");
  const int ranks = static_cast<int>(a.num("ranks")), ep = static_cast<int>(a.num("ep"));
  a.no_effect_unless(a.given("cluster"), "expert-scores", "there is no --cluster");
  for (const char* o : {"ranks", "ep"})
    a.no_effect_unless(!a.given("cluster"), o, "--cluster shows all numbers of ranks");
  check(ranks % ep == 0, "--ep {}: does not divide the {} ranks", ep, ranks);
  for (const char* o : {"recompute", "optimizer", "steps"})
    a.no_effect_unless(!a.given("cluster"), o, "--cluster takes times that were measured");
  Ctx ctx = a.context();
  const std::string hub = hub_folder(path);
  std::unique_ptr<Model> model;
  if (checkpoint) {
    DryRun dry;
    model = load_run_checkpoint(path, ctx.compute);
  } else {
    model = dry_model(path, a.str("weights") == "F32" ? DType::F32 : DType::BF16, ctx.compute);
  }
  print_notices(a, *model);
  bool tokenizer = fs::exists(hub + "/tokenizer.json") || fs::exists(hub + "/tokenizer.model");
  if (tokenizer && !a.given("data")) Tokenizer::load(hub);  // as a run would
  std::vector<int32_t> ids;
  std::vector<Batch> micro = micro_batches(a, hub, model->config, ids);
  int64_t process = process_bytes("VmRSS");
  {
    DryRun dry;  // LoRA's factors are parameters too
    std::string expert_cfg;
    choose_what_trains(a, *model, expert_cfg);
  }
  if (ep > 1) place_experts(*model, ep, {});  // or what `train` would say
  if (a.given("cluster")) return print_scaling(a, *model, micro[0].ids.numel(), std::ssize(micro));
  Estimate e = estimate_training(
      *model, micro,
      {ctx.compute, a.on("recompute"), a.real("aux-loss") != 0 && a.str("aux") == "own",
       std::move(ids), a.str("optimizer") == "adamw8bit", static_cast<int64_t>(micro.size())});
  e.process = process;
  for_ranks(e, *model, ranks, ep);
  double rate = cpu::measure_gflops(ctx.compute), f32 = cpu::measure_gflops(Compute::kF32),
         step_seconds = 1e-9 / kReached * (e.product_flops / rate + e.attention_flops / f32),
         seconds = step_seconds * static_cast<double>(a.num("steps"));
  std::pair<const char*, int64_t> parts[] = {
      {"process", e.process},         {"weights", e.mapped},        {"trained values", e.values},
      {"gradients", e.grads},         {"masters", e.masters},       {"moments", e.moments},
      {"activations", e.activations}, {"step temporaries", e.step}, {"freed blocks", e.freed},
      {"threads", e.threads}};
  if (a.on("json")) {
    Json memory = Json::object();
    for (auto [name, bytes] : parts) memory[name] = bytes;
    return print_json({{"peak_bytes", e.peak()},
                       {"machine_bytes", machine_bytes()},
                       {"memory", memory},
                       {"activations_by_layer", e.kept_by_layer},
                       {"logits_chunk_bytes", e.logits_chunk},
                       {"trainable_parameters", e.trainable_parameters},
                       {"tokens_per_step", e.tokens},
                       {"trained_tokens_per_step", e.trained_tokens},
                       {"flops_per_step", e.product_flops + e.attention_flops},
                       {"rate_gflops", rate},
                       {"rate_f32_gflops", f32},
                       {"reached", kReached},
                       {"rough_seconds_per_step", step_seconds},
                       {"rough_seconds", seconds}});
  }
  Table t(
      {ranks == 1 ? "at the peak" : fmt::format("at the peak, each of {} ranks", ranks), "MiB"});
  auto mib = [](int64_t bytes) {
    return fmt::format("{:.1f}", static_cast<double>(bytes) / (1 << 20));
  };
  for (auto [name, bytes] : parts) t.row({name, mib(bytes)});
  t.row({"together", mib(e.peak())});
  t.row({"this machine has", mib(machine_bytes())});
  fmt::print("{}\n", t.text());
  if (e.peak() > machine_bytes()) fmt::print("it does not fit this machine\n\n");
  Table layers({"layer", "activations kept, MiB"});
  for (size_t i = 0; i < e.kept_by_layer.size(); ++i)
    layers.row({std::to_string(i), mib(e.kept_by_layer[i])});
  fmt::print("{}\n", layers.text());
  fmt::print(
      "{} trainable parameters, {} tokens a step, {:.3g} Tflop a step\n"
      "roughly {:.{}f} s a step, {:.1f} h for {} steps, at half of this machine's {:.0f} GFLOP/s\n",
      e.trainable_parameters, e.tokens, 1e-12 * (e.product_flops + e.attention_flops), step_seconds,
      step_seconds < 10 ? 1 : 0, seconds / 3600, a.num("steps"), rate);
}

}  // namespace
const Command kEstimate{"estimate", "peak memory and time of a training run before it starts",
                        "sutor estimate config.json --method full --seq 512 --batch 4", declare,
                        run};
}  // namespace sutor
