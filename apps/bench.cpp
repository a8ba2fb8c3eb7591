// sutor bench: what this machine can do, and how near to it the kernels come.
#include "engine/bench.h"

#include <cstdio>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/table.h"
#include "engine/cpu/isa.h"
#include "engine/parallel.h"

namespace sutor {
namespace {

void declare(Args& a) {
  a.positional("WHAT", "peaks: GEMM and memory; kernels: the matrix kernels as a share of them");
  a.flag("small", "kernels: an eighth of the experts (0.2 GB instead of 1.3)");
  a.integer("repeats", "kernels: timed runs of each, the median counts", 10, 1, 10000);
  a.common();
}

Json header(const cpu::Peaks& p) {
  return {{"kernels", cpu::name_of(cpu::current_isa())},
          {"threads", num_threads()},
          {"bf16_gflops", p.bf16_gflops},
          {"f32_gflops", p.f32_gflops},
          {"read_gbps", p.read_gbps}};
}

void kernels(const Args& a, Ctx& ctx, const cpu::Peaks& peaks) {
  double gemm = ctx.compute == Compute::kBF16 ? peaks.bf16_gflops : peaks.f32_gflops;
  Table table(
      {"kernel", "shape", "tokens", "us", "GFLOP/s", "% of GEMM peak", "GB/s", "% of memory peak"});
  Json rows = Json::array();
  time_kernels(ctx, a.on("small"), static_cast<int>(a.num("repeats")), [&](const KernelTiming& t) {
    double gflops = t.flop / t.seconds * 1e-9, gbps = t.bytes / t.seconds * 1e-9;
    table.row({t.kernel, t.shape, std::to_string(t.tokens), fmt::format("{:.0f}", t.seconds * 1e6),
               fmt::format("{:.1f}", gflops), fmt::format("{:.0f}", 100 * gflops / gemm),
               fmt::format("{:.1f}", gbps), fmt::format("{:.0f}", 100 * gbps / peaks.read_gbps)});
    rows.push_back({{"kernel", t.kernel},
                    {"shape", t.shape},
                    {"tokens", t.tokens},
                    {"seconds", t.seconds},
                    {"gflops", gflops},
                    {"of_gemm_peak", gflops / gemm},
                    {"gbps", gbps},
                    {"of_memory_peak", gbps / peaks.read_gbps}});
  });
  if (a.on("json")) {
    Json j = header(peaks);
    j["rows"] = rows;
    return print_json(j);
  }
  fmt::print("{}", table.text());
}

void run(const Args& a) {
  const std::string& what = a.str("WHAT");
  if (what != "peaks" && what != "kernels")
    throw UsageError(fmt::format("WHAT is '{}'; allowed: peaks, kernels", what));
  bool times = what == "kernels";
  for (const char* o : {"small", "repeats"}) a.no_effect_unless(times, o, "only kernels has it");
  a.no_effect_unless(times, "dtype", "peaks measures both");
  Ctx ctx = a.context();
  cpu::Peaks peaks = cpu::measure_peaks();
  if (!times && a.on("json")) return print_json(header(peaks));
  if (!a.on("json")) {
    Table t({"peak", "here"});
    t.row({"kernels", std::string(cpu::name_of(cpu::current_isa()))});
    t.row({"threads", std::to_string(num_threads())});
    t.row({"bf16 GEMM, GFLOP/s", fmt::format("{:.1f}", peaks.bf16_gflops)});
    t.row({"f32 GEMM, GFLOP/s", fmt::format("{:.1f}", peaks.f32_gflops)});
    t.row({"memory read, GB/s", fmt::format("{:.1f}", peaks.read_gbps)});
    fmt::print("{}\n", t.text());
  }
  if (times) kernels(a, ctx, peaks);
}

}  // namespace
const Command kBench{"bench", "peaks of this machine, and the kernels as a share of them",
                     "sutor bench kernels --small", declare, run};
}  // namespace sutor
