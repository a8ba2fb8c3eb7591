// sutor bench: every fusion gives the result of the kernels it stands for; each WHAT runs and is
// JSON; options that have no effect are errors.
#include <doctest/doctest.h>

#include <array>

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
        "train --method lora --rank 2 --seq 24", "infer --seq 16 --max-tokens 4 --weights map",
        "infer --seq 16 --max-tokens 4 --batch 6"}) {
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
  Result csv = run(f, "bench infer " + model + "--seq 16 --max-tokens 4 --repeats 1 --csv");
  REQUIRE(csv.code == 0);
  CHECK(std::count(csv.out.begin(), csv.out.end(), '\n') == 3);
  const std::string head = csv.out.substr(0, csv.out.find('\n')),
                    last = csv.out.substr(csv.out.rfind('\n', csv.out.size() - 2) + 1);
  CHECK(std::count(head.begin(), head.end(), ',') == std::count(last.begin(), last.end(), ','));
  CHECK(last.find("\"decode of 4\"") != last.npos);
  for (auto [words, says] :
       {std::pair{"nothing", "WHAT is 'nothing'; allowed: peaks, kernels, layer"},
        {"train", "bench train: name a MODEL"},
        {"kernels x", "bench kernels: takes no MODEL"},
        {"layer --recompute", "only train has it"},
        {"fusion --tokens 2", "only layer has it"},
        {"layer --batch 2", "only train and infer have it"},
        {"peaks --csv", "peaks has no rows"},
        {"peaks --small", "only kernels, layer and fusion have it"},
        {"infer tests/goldens/deepseek_v2/lite --seq 1000000", "max_position_embeddings"}}) {
    CAPTURE(words);
    Result r = run(f, std::string("bench ") + words);
    CHECK(r.code != 0);
    CHECK(r.err.find(says) != r.err.npos);
  }
}

TEST_CASE("bench layer: forward alone, then a share of the experts that train and all of them") {
  if (binary() == nullptr) return;
  Folder f;
  Result r = run(f,
                 "bench layer --small --hidden 64 --width 32 --tokens 40 --share 50 --repeats 1 "
                 "--json");
  CAPTURE(r.err);
  REQUIRE(r.code == 0);
  const Json rows = parse_json(r.out, "bench")["rows"];
  REQUIRE(rows.size() == 3);
  const double forward = rows[0]["gflops"].get<double>() * rows[0]["seconds"].get<double>();
  CHECK(forward == doctest::Approx(6e-9 * 40 * 6 * 64 * 32));
  for (size_t i = 0; i < 3; ++i) {
    const Json& row = rows[i];
    CHECK(row["tokens"] == 40);
    CHECK(row["backward"] == (i > 0));
    CHECK(row["share"].get<double>() == std::array{0.0, 0.5, 1.0}[i]);
    CHECK(row["line"].get<double>() == doctest::Approx(std::array{1 / 3.0, 2.5 / 3, 1.0}[i]));
    CHECK(row["gflops"].get<double>() * row["seconds"].get<double>() ==
          doctest::Approx(3 * forward * row["line"].get<double>()));
  }
}
