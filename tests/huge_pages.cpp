// Weights moved into huge pages: the same bits, in memory that is no file's.
#include "model/huge_pages.h"

#include "io/json.h"
#include "tests/command.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

TEST_CASE("huge pages: the weights stay what they are") {
  const std::string folder = "tests/goldens/deepseek_v2/lite";
  auto mapped = load_model(folder), moved = load_model(folder);
  int64_t bytes = mapped_weight_bytes(*moved);
  CHECK(bytes > 0);
  CHECK(move_to_huge_pages(*moved) == bytes);
  CHECK(mapped_weight_bytes(*moved) == 0);
  for (const Param& p : mapped->params.all()) {
    CAPTURE(p.name);
    CHECK(same_bits(p.value, moved->params.at(p.name).value));
    CHECK(
        same_bits(p.value, load_model(folder)->params.at(p.name).value));  // the file is as before
  }
}

TEST_CASE("huge pages: --weights changes no token") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string base =
      "generate recipes/embedded --prompt abc --max-tokens 8 --ignore-eos --weights ";
  Result a = run(f, base + "map"), b = run(f, base + "huge"), c = run(f, base + "tiny");
  CAPTURE(a.err);
  REQUIRE(a.code == 0);
  CHECK(a.out == b.out);
  CHECK(c.code == 2);
}

TEST_CASE("huge pages: --weights changes no bit of training, scores or an evaluation") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string model = "tests/goldens/esft_train/model",
                    data = " --data tests/goldens/esft_train/rows.jsonl --quiet --weights ";
  auto ran = [&](const std::string& line) {
    Result r = run(f, line);
    CAPTURE(r.err);
    REQUIRE(r.code == 0);
    return r.out;
  };
  for (const std::string weights : {"map", "huge"}) {
    ran("train " + model + data + weights + " --method lora --steps 2 --batch 2 --seq 128 --out " +
        (f / ("run-" + weights)));
    ran("score " + model + data + weights + " --tokens 2000 --out " + (f / (weights + ".json")));
  }
  auto same = [&](const std::string& a, const std::string& b) {
    CHECK(read_file(f / a) == read_file(f / b));
  };
  same("run-map/adapter/adapter_model.safetensors", "run-huge/adapter/adapter_model.safetensors");
  same("map.json", "huge.json");
  const std::string eval = "eval " + model + data;
  auto loss = [&](const std::string& weights) {
    return parse_json(ran(eval + weights + " --metric loss --json"), "eval")["score"];
  };
  CHECK(loss("map") == loss("huge"));
  // A run goes on wherever its weights lie.
  const std::string train = "train " + model + data,
                    more = " --method lora --batch 2 --seq 128 --save-every 1 --out " + (f / "on");
  ran(train + "map --steps 1" + more);
  ran(train + "huge --steps 2 --resume" + more);
  same("run-map/adapter/adapter_model.safetensors", "on/adapter/adapter_model.safetensors");
}
