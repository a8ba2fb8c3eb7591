// adapter_config.json: ranks are integers of a size that a tensor can have.
#include "model/peft_config.h"

#include <doctest/doctest.h>

#include "tests/command.h"
#include "tests/corruption.h"

using namespace sutor;
using namespace sutor::test;

TEST_CASE("peft config: ranks are integers in range") {
  Folder f;
  auto error = [&](const std::string& change) {
    Json j{{"peft_type", "LORA"}, {"r", 4}, {"lora_alpha", 8}, {"target_modules", {"q_proj"}}};
    j.update(Json::parse(change));
    std::string file = f.file("adapter_config.json", j.dump());
    return error_of([&] { PeftConfig::read(file); });
  };
  auto says = [&](const std::string& change, const std::string& part) {
    std::string e = error(change);
    CAPTURE(change);
    CAPTURE(e);
    CHECK(e.find(part) != std::string::npos);
  };
  CHECK(error("{}") == "no error");
  CHECK(error(R"({"r": 2147483647, "alpha_pattern": {"x": 0.5}})") == "no error");
  says(R"({"r": 1e300})", "\"r\" must be an integer");
  says(R"({"r": 2.5})", "\"r\" must be an integer");
  says(R"({"r": 0})", "r is 0, must be in 1..2147483647");
  says(R"({"r": 2147483648})", "r is 2147483648");
  says(R"({"rank_pattern": {"x": 2.5}})", "rank_pattern: x is 2.5");
  says(R"({"rank_pattern": {"x": 1e300}})", "rank_pattern: x is 1e+300");
  says(R"({"rank_pattern": {"x": 2147483648}})", "rank_pattern: x is 2147483648");
  says(R"({"rank_pattern": {"x": 0}})", "rank_pattern: x is 0");
}
