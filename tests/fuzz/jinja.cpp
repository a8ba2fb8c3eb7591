// libFuzzer target: a chat template, rendered for a short conversation and for one with tools,
// calls and parts. The seeds with names are the families' templates of tests/goldens/chat. `make
// fuzz`.
#include "io/jinja.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using sutor::jinja::Json;
  static const Json plain = Json::parse(
      R"({"messages":[{"role":"user","content":"a b"},{"role":"assistant","content":"c"}],
          "bos_token":"<s>","add_generation_prompt":true,"n":3,"x":-1.5})");
  static const Json tools = Json::parse(
      R"({"messages":[{"role":"system","content":"s"},
          {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
          {"role":"assistant","content":null,"tool_calls":[{"id":"abcDEF123","type":"function",
           "function":{"name":"f","arguments":{"ort":"K\u00f6ln","days":2}}}]},
          {"role":"tool","name":"f","tool_call_id":"abcDEF123","content":"{}"},
          {"role":"assistant","content":"<think>\nt\n</think>\n\nx","reasoning_content":"r"}],
          "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":
           {"type":"object","properties":{"ort":{"type":"string"}},"required":["ort"]}}}],
          "documents":[{"title":"t","text":"d"}],"bos_token":"<s>","eos_token":"</s>",
          "add_generation_prompt":false,"enable_thinking":false})");
  for (const Json* variables : {&plain, &tools})
    sutor::fuzz::any([&] {
      sutor::jinja::render_spans({reinterpret_cast<const char*>(data), size}, *variables);
    });
  return 0;
}
