// libFuzzer target: torch .bin. `make fuzz`.
#include "io/torch_file.h"

#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string path = sutor::fuzz::file("x.bin", data, size);
  return sutor::fuzz::any([&] {
    sutor::TorchFile f(path);
    for (const auto& name : f.names()) f.get(name);
  });
}
