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
  // "about X GiB at the peak ..."
  auto gib = [](const std::string& said) {
    return std::stod(said.substr(said.find("about ") + 6));
  };
  CHECK(trained("free", "").find("--max-memory") == std::string::npos);
  const std::string roomy = trained("roomy", "--max-memory 100000"),
                    least = trained("least", "--recompute --max-memory 1");
  CHECK(roomy.find("with everything kept") != std::string::npos);
  CHECK(gib(least) < gib(roomy));
  const std::string between = fmt::format("--max-memory {}", (gib(least) + gib(roomy)) / 2);
  CHECK(trained("tight", between).find("by recomputing; ") != std::string::npos);
  for (const char* name : {"roomy", "tight"})
    CHECK(read_file(f / (std::string(name) + "/adapter/adapter_model.safetensors")) ==
          read_file(f / "free/adapter/adapter_model.safetensors"));
  const auto before = entries(f);
  check_one_line(run(f, train + "--max-memory 0.004 --quiet --out " + (f / "none")), 1,
                 {"--max-memory 0.004: training needs about ", "even with --recompute: lower "});
  CHECK(entries(f) == before);
}
