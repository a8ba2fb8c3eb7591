// libFuzzer target: expert_cfg.json; what loads is written and read back to the same. `make fuzz`.
#include "model/esft.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string path = sutor::fuzz::file("expert_cfg.json", data, size);
  return sutor::fuzz::any([&] {
    sutor::ExpertConfig c = sutor::read_expert_config(path);
    sutor::trains(c, "model.layers.1.mlp.experts.0.up_proj.weight");
    std::string text = sutor::to_json(c);
    sutor::fuzz::file("expert_cfg.json", text.data(), text.size());
    if (sutor::to_json(sutor::read_expert_config(path)) != text) __builtin_trap();
  });
}
