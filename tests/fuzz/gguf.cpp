// libFuzzer target: GGUF, its tokenizer and chat template included. `make fuzz`.
#include "io/gguf.h"
#include "io/chat.h"
#include "io/tokenizer.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string path = sutor::fuzz::file("x.gguf", data, size);
  sutor::fuzz::any([&] {
    sutor::GgufFile f(path);
    for (const auto& name : f.names()) f.get(name);
  });
  sutor::fuzz::any([&] { sutor::ChatTemplate::load(path); });
  return sutor::fuzz::any([&] { sutor::Tokenizer::load(path).encode("a text 12"); });
}
