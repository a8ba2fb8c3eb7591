// libFuzzer target: rows of a .jsonl file, strict and with bad rows skipped. `make fuzz`.
#include "io/dataset.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string path = sutor::fuzz::file("rows.jsonl", data, size);
  sutor::fuzz::any([&] { sutor::read_dataset(path, false); });
  return sutor::fuzz::any([&] { sutor::read_dataset(path, true); });
}
