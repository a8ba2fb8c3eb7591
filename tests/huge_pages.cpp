// Weights moved into huge pages: the same bits, in memory that is no file's.
#include "model/huge_pages.h"

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
