// libFuzzer target: any bytes either load or throw Error. Build and run from the root:
// clang 14 has no _Float16 here; no half is converted by this target, so any 2-byte type will do.
// clang++-14 -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -D_Float16=short -I.
// tests/fuzz/safetensors.cpp io/safetensors.cpp
//   io/json.cpp io/file.cpp engine/tensor.cpp -lfmt -o build/fuzz_safetensors &&
//   build/fuzz_safetensors -max_total_time=60
#include <unistd.h>

#include <fstream>

#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string path = fmt::format("/dev/shm/sutor-fuzz-{}", getpid());
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(data), size);
  try {
    sutor::SafetensorsFile f(path);
    for (const auto& name : f.names()) f.get(name);
  } catch (const sutor::Error&) {
  }
  unlink(path.c_str());
  return 0;
}
