// libFuzzer target: a chat template, rendered. `make fuzz`.
#include "io/jinja.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const sutor::jinja::Json variables = sutor::jinja::Json::parse(
      R"({"messages":[{"role":"user","content":"a b"},{"role":"assistant","content":"c"}],
          "bos_token":"<s>","add_generation_prompt":true,"n":3,"x":-1.5})");
  return sutor::fuzz::any([&] {
    sutor::jinja::render_spans({reinterpret_cast<const char*>(data), size}, variables);
  });
}
