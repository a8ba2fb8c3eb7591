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
  // What changes no weight must still be what peft writes there.
  CHECK(error(R"({"task_type": null, "revision": "main", "lora_dropout": 0.1})") == "no error");
  says(R"({"lora_dropout": "0.1"})", "lora_dropout is \"0.1\", must be a number or null");
  says(R"({"inference_mode": "yes"})", "inference_mode is \"yes\", must be true or false or null");
  says(R"({"base_model_name_or_path": 7})", "base_model_name_or_path is 7, must be a text or null");
  says(R"({"task_type": ["CAUSAL_LM"]})", "task_type is [\"CAUSAL_LM\"], must be a text or null");
  says(R"({"loftq_config": 1})", "loftq_config is 1, must be an object or null");
}
