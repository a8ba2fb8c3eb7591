// libFuzzer target: tokenizer.json; what loads must encode and decode. `make fuzz`.
#include "io/tokenizer.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sutor::fuzz::file("tokenizer.json", data, size);
  return sutor::fuzz::any([&] {
    auto t = sutor::Tokenizer::load(sutor::fuzz::folder());
    std::vector<int32_t> ids = t.encode("Hello  w\xC3\xB6rld\n123 \xFF</s>");
    t.decode(ids);
    t.decode(ids, true);
  });
}
