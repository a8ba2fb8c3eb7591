// sutor bench: every fusion gives the result of the kernels it stands for; each WHAT runs and is
// JSON; options that have no effect are errors.
#include <doctest/doctest.h>

#include "engine/bench.h"
#include "io/json.h"
#include "tests/command.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

TEST_CASE("bench fusion: both forms have the same result") {
  for (Compute compute : {Compute::kF32, Compute::kBF16}) {
    Ctx ctx = cpu_context(compute);
    for (const FusionTiming& t : time_fusions(ctx, true, 1, [](const FusionTiming&) {})) {
      CAPTURE(t.fusion);
      CAPTURE(t.difference);
      // bf16: LoRA's low side is rounded before its scale or after it.
      CHECK(t.difference < (compute == Compute::kF32 ? 1e-5 : 5e-3));
      CHECK(t.fused_seconds > 0);
      CHECK(t.apart_seconds > 0);
      CHECK(t.bytes > 0);
    }
  }
}

TEST_CASE("bench train, infer: a model on random ids, as a share of the peaks") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string model = "tests/goldens/deepseek_v2/lite ";
  for (const char* words :
       {"train --method full --seq 24 --batch 2 --recompute --optimizer adamw8bit",
        "train --method lora --rank 2 --seq 24", "infer --seq 16 --max-tokens 4 --weights map"}) {
    CAPTURE(words);
    std::string line = words;
    line.insert(line.find(' ') + 1, model);
    Result r = run(f, "bench " + line + " --repeats 2 --json");
    CAPTURE(r.err);
    REQUIRE(r.code == 0);
    for (const Json& row : parse_json(r.out, "bench")["rows"]) {
      CHECK(row["tokens_per_s"].get<double>() > 0);
      CHECK(row["gflops"].get<double>() > 0);
      CHECK(row["gbps"].get<double>() > 0);
    }
  }
  for (auto [words, says] :
       {std::pair{"nothing", "WHAT is 'nothing'; allowed: peaks, kernels, layer"},
        {"train", "bench train: name a MODEL"},
        {"kernels x", "bench kernels: takes no MODEL"},
        {"layer --recompute", "only train has it"},
        {"infer x --batch 2", "only train has it"},
        {"peaks --small", "only kernels, layer and fusion have it"},
        {"infer tests/goldens/deepseek_v2/lite --seq 1000000", "max_position_embeddings"}}) {
    CAPTURE(words);
    Result r = run(f, std::string("bench ") + words);
    CHECK(r.code != 0);
    CHECK(r.err.find(says) != r.err.npos);
  }
}
