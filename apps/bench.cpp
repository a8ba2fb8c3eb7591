// sutor bench: what this machine can do, and how near to it kernels and whole models come.
#include "engine/bench.h"

#include <algorithm>
#include <cstdio>
#include <optional>

#include "apps/bench_comm.h"
#include "apps/bench_model.h"
#include "apps/commands.h"
#include "apps/method_args.h"
#include "apps/ranks.h"
#include "apps/table.h"
#include "engine/cpu/isa.h"
#include "engine/parallel.h"

namespace sutor {
namespace {

void declare(Args& a) {
  a.positional(
      "WHAT",
      "peaks: GEMM and memory; kernels: the matrix kernels; layer: a MoE layer by the share "
      "that trains; fusion: what each fused kernel is worth; train, infer: a MODEL; comm: messages "
      "between the ranks that mpirun started");
  declare_model(a, true);
  declare_ranks(a, false);
  a.flag("small",
         "kernels, layer: an eighth of the experts (0.2 GB of them instead of 1.1); fusion: toy "
         "sizes");
  a.integer("hidden", "layer: width of a token", 2048, 1, 1 << 16);
  a.integer("width", "layer: of an expert", 1408, 1, 1 << 16);
  a.integer("tokens", "layer: this many alone; 0: 128, 512 and 2048", 0, 0, 1 << 20);
  a.integer("share", "layer: percent of its experts that train, and all; -1: six shares", -1, -1,
            100);
  a.flag("csv", "comma-separated values on stdout, with the peaks in every line");
  a.integer("repeats", "timed runs of each, the median counts", 10, 1, 10000);
  declare_method(a);
  a.choice("optimizer", "train: as in sutor train", "adamw", {"adamw", "adamw8bit"});
  a.flag("recompute", "train: keep only block inputs for backward");
  a.integer("batch", "train: rows of a step; infer: sequences decoded together", 1, 1, 1 << 20);
  a.integer("seq", "train: tokens of a row; infer: of the prompt", 512, 2, 1 << 20);
  a.integer("max-tokens", "infer: tokens generated", 128, 2, 1 << 20);
  declare_weights(a);
}

Json header(const Args& a, const cpu::Peaks& p) {
  return {{"kernels", cpu::name_of(cpu::current_isa())},
          {"dtype", a.str("dtype")},
          {"threads", num_threads()},
          {"bf16_gflops", p.bf16_gflops},
          {"f32_gflops", p.f32_gflops},
          {"read_gbps", p.read_gbps}};
}

double gemm_peak(const Ctx& ctx, const cpu::Peaks& p) {
  return ctx.compute == Compute::kBF16 ? p.bf16_gflops : p.f32_gflops;
}

// Comma-separated values: the rows' keys, then a line for each, with the header's values at its
// end.
void print_csv(const Json& head, const Json& rows) {
  auto cell = [](const Json& v) {
    if (!v.is_string()) return v.dump();
    std::string s = "\"";
    for (char c : v.get<std::string>()) s += c == '"' ? "\"\"" : std::string(1, c);
    return s + "\"";
  };
  bool first = true;
  for (const Json& row : rows) {
    std::vector<std::string> keys, cells;
    for (const Json* part : {&row, &head})
      for (const auto& [key, v] : part->items()) {
        keys.push_back(key);
        cells.push_back(cell(v));
      }
    if (first) fmt::print("{}\n", fmt::join(keys, ","));
    first = false;
    fmt::print("{}\n", fmt::join(cells, ","));
  }
}

// What was measured, as JSON below the header, as CSV or as the table.
void show(const Args& a, const cpu::Peaks& peaks, Json rows, const Table& table) {
  Json j = header(a, peaks);
  if (a.on("csv")) return print_csv(j, rows);
  if (!a.on("json")) return fmt::print("{}", table.text()), void();
  j["rows"] = std::move(rows);
  print_json(j);
}

void kernels(const Args& a, Ctx& ctx, const cpu::Peaks& peaks) {
  const double gemm = gemm_peak(ctx, peaks);
  Table table({"kernel", "shape", "tokens", "us", "GFLOP/s", "% of GEMM peak", "GB/s",
               "% of memory peak", "% of roof"});
  Json rows = Json::array();
  time_kernels(ctx, a.on("small"), static_cast<int>(a.num("repeats")), [&](const KernelTiming& t) {
    double gflops = t.flop / t.seconds * 1e-9, gbps = t.bytes / t.seconds * 1e-9,
           roof = std::max(gflops / gemm, gbps / peaks.read_gbps);
    table.row({t.kernel, t.shape, std::to_string(t.tokens), fmt::format("{:.0f}", t.seconds * 1e6),
               fmt::format("{:.1f}", gflops), fmt::format("{:.0f}", 100 * gflops / gemm),
               fmt::format("{:.1f}", gbps), fmt::format("{:.0f}", 100 * gbps / peaks.read_gbps),
               fmt::format("{:.0f}", 100 * roof)});
    rows.push_back({{"kernel", t.kernel},
                    {"shape", t.shape},
                    {"tokens", t.tokens},
                    {"seconds", t.seconds},
                    {"gflops", gflops},
                    {"of_gemm_peak", gflops / gemm},
                    {"gbps", gbps},
                    {"of_memory_peak", gbps / peaks.read_gbps},
                    {"of_roof", roof}});
  });
  show(a, peaks, std::move(rows), table);
}

void layer(const Args& a, Ctx& ctx, const cpu::Peaks& peaks) {
  const double gemm = gemm_peak(ctx, peaks);
  Table table(
      {"tokens", "experts that train", "ms", "GFLOP/s", "% of GEMM peak", "of all", "(2+s)/3"});
  Json rows = Json::array();
  LayerSizes sizes;
  sizes.hidden = a.num("hidden");
  sizes.width = a.num("width");
  if (a.on("small")) {
    sizes.experts = 8;
    sizes.tokens = {128};
  }
  if (a.num("tokens") > 0) sizes.tokens = {a.num("tokens")};
  if (a.num("share") >= 0) sizes.shares = {static_cast<double>(a.num("share")) / 100};
  if (sizes.shares.back() != 1) sizes.shares.push_back(1);
  std::vector<LayerTiming> all =
      time_layer(ctx, sizes, static_cast<int>(a.num("repeats")), [](const LayerTiming&) {});
  for (const LayerTiming& t : all) {
    double whole = 0;
    for (const LayerTiming& o : all)
      if (o.tokens == t.tokens && o.share == 1) whole = o.seconds;
    double gflops = t.flop / t.seconds * 1e-9;
    table.row({std::to_string(t.tokens),
               t.backward ? fmt::format("{:.0f} %", 100 * t.share) : "forward alone",
               fmt::format("{:.1f}", t.seconds * 1e3), fmt::format("{:.1f}", gflops),
               fmt::format("{:.0f}", 100 * gflops / gemm), fmt::format("{:.3f}", t.seconds / whole),
               fmt::format("{:.3f}", t.line())});
    rows.push_back({{"tokens", t.tokens},
                    {"backward", t.backward},
                    {"share", t.share},
                    {"seconds", t.seconds},
                    {"gflops", gflops},
                    {"of_gemm_peak", gflops / gemm},
                    {"of_all", t.seconds / whole},
                    {"line", t.line()}});
  }
  show(a, peaks, std::move(rows), table);
}

void fusion(const Args& a, Ctx& ctx, const cpu::Peaks& peaks) {
  Table table({"fused", "apart", "shape", "fused ms", "apart ms", "gain", "MB not moved"});
  Json rows = Json::array();
  time_fusions(ctx, a.on("small"), static_cast<int>(a.num("repeats")), [&](const FusionTiming& t) {
    table.row({t.fusion, t.apart, t.shape, fmt::format("{:.2f}", t.fused_seconds * 1e3),
               fmt::format("{:.2f}", t.apart_seconds * 1e3),
               fmt::format("{:.2f}x", t.apart_seconds / t.fused_seconds),
               fmt::format("{:.0f}", t.bytes * 1e-6)});
    rows.push_back({{"fused", t.fusion},
                    {"apart", t.apart},
                    {"shape", t.shape},
                    {"fused_seconds", t.fused_seconds},
                    {"apart_seconds", t.apart_seconds},
                    {"bytes_not_moved", t.bytes},
                    {"difference", t.difference}});
  });
  show(a, peaks, std::move(rows), table);
}

void run(const Args& a) {
  const std::string& what = a.str("WHAT");
  const char* known[] = {"peaks", "kernels", "layer", "fusion", "train", "infer", "comm"};
  if (std::find(std::begin(known), std::end(known), what) == std::end(known))
    throw UsageError(fmt::format("WHAT is '{}'; allowed: {}", what, fmt::join(known, ", ")));
  const bool train = what == "train", infer = what == "infer", times = what != "peaks";
  if ((train || infer) == a.str("MODEL").empty())
    throw UsageError(train || infer ? fmt::format("bench {}: name a MODEL", what)
                                    : fmt::format("bench {}: takes no MODEL", what));
  const bool comm = what == "comm";
  if (const int n = ranks_that_mpi_started(); n > 1 && !comm)
    throw UsageError(fmt::format("bench {}: runs on one rank, {} were started", what, n));
  a.no_effect_unless(comm, "comm-timeout", "only comm has ranks");
  a.no_effect_unless(times && !comm && !train && !infer, "small",
                     "only kernels, layer and fusion have it");
  a.no_effect_unless(times, "repeats", "peaks has none");
  a.no_effect_unless(times && !comm && !a.on("json"), "csv",
                     a.on("json") ? "--json is asked for" : what + " has no rows");
  a.no_effect_unless(times && !comm, "dtype",
                     comm ? "comm computes nothing" : "peaks measures both");
  for (const char* o : {"hidden", "width", "tokens", "share"})
    a.no_effect_unless(what == "layer", o, "only layer has it");
  for (const char* o : {"method", "experts", "one-indexed", "rank", "alpha", "lora-dropout",
                        "adapter-dropout", "quantize", "optimizer", "recompute"})
    a.no_effect_unless(train, o, "only train has it");
  a.no_effect_unless(infer, "max-tokens", "only infer has it");
  for (const char* o : {"seq", "adapter", "weights", "batch"})
    a.no_effect_unless(train || infer, o, "only train and infer have it");
  Ctx ctx = a.context();
  if (comm) return on_ranks(a, [&](const Ranks& ranks) { bench_comm(a, ranks); });
  // A model first: what measures the peaks takes a gigabyte.
  std::optional<ModelTiming> model;
  if (train || infer) model = train ? time_training(a, ctx) : time_inference(a, ctx);
  const int64_t resident = peak_bytes();
  cpu::Peaks peaks = cpu::measure_peaks();
  if (!times && a.on("json")) return print_json(header(a, peaks));
  if (!a.on("json") && !a.on("csv")) {
    Table t({"peak", "here"});
    t.row({"kernels", std::string(cpu::name_of(cpu::current_isa()))});
    t.row({"threads", std::to_string(num_threads())});
    t.row({"bf16 GEMM, GFLOP/s", fmt::format("{:.1f}", peaks.bf16_gflops)});
    t.row({"f32 GEMM, GFLOP/s", fmt::format("{:.1f}", peaks.f32_gflops)});
    t.row({"memory read, GB/s", fmt::format("{:.1f}", peaks.read_gbps)});
    fmt::print("{}\n", t.text());
  }
  if (what == "kernels") kernels(a, ctx, peaks);
  if (what == "layer") layer(a, ctx, peaks);
  if (what == "fusion") fusion(a, ctx, peaks);
  if (!model) return;
  Table table({"what", "tokens/s", "GFLOP/s", "% of GEMM peak", "GB/s", "% of memory peak"});
  Json rows = Json::array();
  for (const ModelTiming::Row& r : model->rows) {
    double gflops = r.flop / r.seconds * 1e-9, gbps = r.bytes / r.seconds * 1e-9,
           gemm = gemm_peak(ctx, peaks);
    table.row({r.what, fmt::format("{:.1f}", r.tokens / r.seconds), fmt::format("{:.1f}", gflops),
               fmt::format("{:.0f}", 100 * gflops / gemm), fmt::format("{:.1f}", gbps),
               fmt::format("{:.0f}", 100 * gbps / peaks.read_gbps)});
    rows.push_back({{"what", r.what},
                    {"seconds", r.seconds},
                    {"tokens_per_s", r.tokens / r.seconds},
                    {"gflops", gflops},
                    {"of_gemm_peak", gflops / gemm},
                    {"gbps", gbps},
                    {"of_memory_peak", gbps / peaks.read_gbps},
                    {"peak_bytes", resident}});
  }
  show(a, peaks, std::move(rows), table);
  if (!a.on("json") && !a.on("csv"))
    fmt::print("peak memory: {:.2f} GB\n", static_cast<double>(resident) * 1e-9);
}

}  // namespace
const Command kBench{"bench", "peaks of this machine, and kernels and models as a share of them",
                     "sutor bench kernels --small", declare, run};
}  // namespace sutor
