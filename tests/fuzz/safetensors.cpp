// libFuzzer target: any bytes either load as a safetensors file or throw Error. `make fuzz`.
#include "io/safetensors.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string path = sutor::fuzz::file("x.safetensors", data, size);
  return sutor::fuzz::any([&] {
    sutor::SafetensorsFile f(path);
    for (const auto& name : f.names()) try {
        f.get(name);
      } catch (const sutor::Error&) {  // a type we do not compute with
      }
  });
}
