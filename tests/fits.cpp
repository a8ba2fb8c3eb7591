// A run that cannot fit is refused before it takes any memory.
#include "tests/command.h"

using namespace sutor;
using namespace sutor::test;

TEST_CASE("fits: a micro-batch that no memory holds is one line, at once") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string train =
      "train tests/goldens/esft_train/model --data "
      "tests/goldens/esft_train/rows.jsonl --threads 1 --seq 512 --steps 1 ";
  auto refused = [&](const std::string& more, std::initializer_list<std::string> parts) {
    const auto before = entries(f);
    check_one_line(run(f, train + more + " --quiet --out " + (f / "run"),
                       "ulimit -t 20;"),  // seconds: not by running into the limit
                   1, parts);
    CHECK(entries(f) == before);
  };
  refused("--method lora --batch 1000000",
          {"training needs about ", "GiB are available", "lower --batch or --seq", "--recompute",
           "--optimizer adamw8bit", "--quantize nf4"});
  refused("--method full --batch 1000000 --recompute --optimizer adamw8bit",
          {"training needs about ", ": lower --batch or --seq\n"});
  CHECK(run(f, train + "--method lora --batch 2 --quiet --out " + (f / "run")).code == 0);
}

TEST_CASE("fits: --max-memory recomputes where that is needed, and changes no bit") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string train =
      "train tests/goldens/esft_train/model --data tests/goldens/esft_train/rows.jsonl --threads 1 "
      "--seq 512 --steps 1 --batch 8 --method lora ";
  auto trained = [&](const std::string& name, const std::string& more) {
    auto r = run(f, train + more + " --out " + (f / name));
    CHECK(r.code == 0);
    return r.err;
  };
  // About 0.046 GiB with everything kept, 0.029 without.
  CHECK(trained("free", "").find("--max-memory") == std::string::npos);
  CHECK(trained("roomy", "--max-memory 1").find("with everything kept") != std::string::npos);
  CHECK(trained("tight", "--max-memory 0.038").find("by recomputing; ") != std::string::npos);
  for (const char* name : {"roomy", "tight"})
    CHECK(read_file(f / (std::string(name) + "/adapter/adapter_model.safetensors")) ==
          read_file(f / "free/adapter/adapter_model.safetensors"));
  const auto before = entries(f);
  check_one_line(run(f, train + "--max-memory 0.004 --quiet --out " + (f / "none")), 1,
                 {"--max-memory 0.004: training needs about ", "even with --recompute: lower "});
  CHECK(entries(f) == before);
}
