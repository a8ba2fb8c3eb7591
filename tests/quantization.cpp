// quantization_config and the statistics of NF4 weights: what is not implemented, contradicts the
// tensors or is missing is one line that names it.
#include "model/quantization.h"

#include <doctest/doctest.h>

#include "io/safetensors.h"
#include "model/nf4.h"
#include "tests/command.h"
#include "tests/corruption.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

TEST_CASE("quantization: what config.json asks for and is not implemented names key and value") {
  Config c;
  c.where = "m/config.json";
  auto error = [&](const Json& q) {
    c.json = {{"quantization_config", q}};
    return error_of([&] { check_quantization(c); });
  };
  auto with = [&](Json q, const char* key, const Json& v) {
    q[key] = v;
    return error(q);
  };
  const Json nf4 = nf4_config({"lm_head"}),
             fp8{{"quant_method", "fp8"}, {"fmt", "e4m3"}, {"weight_block_size", {128, 128}}};
  CHECK(error(nf4) == "no error");
  CHECK(error(fp8) == "no error");
  CHECK(error(nullptr) == "no error");
  CHECK(with(nf4, "bnb_4bit_use_double_quant", false) == "no error");
  auto says = [](const std::string& e, const std::string& part) {
    CAPTURE(e);
    CHECK(e.find("m/config.json: quantization_config") == 0);
    CHECK(e.find(part) != e.npos);
  };
  says(error("nf4"), "is string, must be an object");
  says(with(nf4, "quant_method", "gptq"), "quant_method is \"gptq\", known: bitsandbytes, fp8");
  says(with(nf4, "bnb_4bit_quant_type", "fp4"), "bnb_4bit_quant_type is \"fp4\", known: nf4");
  says(with(nf4, "bnb_4bit_quant_storage", "float16"),
       "bnb_4bit_quant_storage is \"float16\", known: uint8");
  says(with(nf4, "load_in_8bit", true), "load_in_8bit is true, allowed: false");
  says(with(nf4, "load_in_4bit", false), "load_in_4bit is false, allowed: true");
  says(with(nf4, "bnb_4bit_use_double_quant", "yes"), "bnb_4bit_use_double_quant");
  says(with(fp8, "fmt", "e5m2"), "fmt is \"e5m2\", known: e4m3");
  says(with(fp8, "weight_block_size", {64, 64}), "weight_block_size is [64,64]");
  says(with(fp8, "activation_scheme", "static"), "activation_scheme is \"static\"");
}

TEST_CASE("quantization: a packed weight without one of its statistics names both") {
  Folder f;
  auto without = [&](const std::function<bool(const std::string&)>& gone) {
    NamedTensors t = packed_nf4("m.weight", random({8, 64}, 1));
    std::erase_if(t, [&](const auto& x) { return gone(x.first); });
    save_safetensors(f / "x.safetensors", t);
    return error_of(
        [&] { nf4_weights(std::make_shared<Checkpoint>(Checkpoint::open(f / "x.safetensors"))); });
  };
  auto says = [](const std::string& e, const std::string& part) {
    CAPTURE(e);
    CHECK(e.find("x.safetensors: ") != e.npos);
    CHECK(e.find(part) != e.npos);
  };
  for (const char* part : {"absmax", "quant_map", "nested_absmax", "nested_quant_map"})
    says(without([&](const std::string& n) { return n == "m.weight." + std::string(part); }),
         "m.weight is in NF4, but its m.weight." + std::string(part) + " is missing");
  says(without([](const std::string& n) { return n.find("quant_state") != n.npos; }),
       "m.weight has m.weight.");
  says(without([](const std::string& n) { return n.find("quant_state") != n.npos; }),
       "but no m.weight.quant_state.bitsandbytes__nf4");
  says(without([](const std::string& n) { return n != "m.weight"; }),
       "m.weight is packed (U8 [256, 1]), but has no m.weight.quant_state.bitsandbytes__nf4");
  // A state that does not say that the maxima are quantised themselves.
  NamedTensors t = packed_nf4("m.weight", random({8, 64}, 1));
  std::string s(reinterpret_cast<const char*>(t[5].second.data), t[5].second.nbytes());
  s = s.substr(0, s.find(", \"nested_blocksize\"")) + "}";
  t[5].second = empty({static_cast<int64_t>(s.size())}, DType::U8);
  std::copy(s.begin(), s.end(), reinterpret_cast<char*>(t[5].second.data));
  save_safetensors(f / "x.safetensors", t);
  says(error_of([&] {
         nf4_weights(std::make_shared<Checkpoint>(Checkpoint::open(f / "x.safetensors")));
       }),
       "has no nested_offset, yet m.weight.absmax is U8");
}

TEST_CASE("quantization: commands say it, and NF4 is not packed a second time") {
  if (binary() == nullptr) return;
  Folder f;
  REQUIRE(run(f, "quantize tests/goldens/llama/biased --quiet --out " + (f / "q")).code == 0);
  check_one_line(run(f, "quantize " + (f / "q") + " --out " + (f / "x")), 1,
                 {f / "q", "in NF4 already"});
  CHECK_FALSE(std::filesystem::exists(f / "x"));
  Json config = read_json_file(f / "q/config.json");
  config["quantization_config"]["bnb_4bit_quant_type"] = "fp4";
  f.file("q/config.json", config.dump());
  check_one_line(run(f, "inspect " + (f / "q")), 1, {"bnb_4bit_quant_type", "fp4", "known: nf4"});
}
