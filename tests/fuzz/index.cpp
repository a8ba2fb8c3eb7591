// libFuzzer target: model.safetensors.index.json beside one good shard. `make fuzz`.
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const bool shard = [] {
    sutor::save_safetensors(sutor::fuzz::folder() + "/a.safetensors", {{"w", sutor::zeros({2})}});
    return true;
  }();
  (void)shard;
  sutor::fuzz::file("model.safetensors.index.json", data, size);
  return sutor::fuzz::any([&] {
    auto c = sutor::Checkpoint::open(sutor::fuzz::folder());
    for (const auto& name : c.names()) c.get(name);
  });
}
