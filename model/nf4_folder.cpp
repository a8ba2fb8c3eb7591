#include "model/nf4_folder.h"

#include <algorithm>

#include "engine/quant.h"
#include "io/file.h"
#include "model/checkpoint.h"
#include "model/lora.h"
#include "model/names.h"
#include "model/nf4.h"

namespace sutor {

Nf4Folder write_nf4_folder(const std::string& dir, Model& model, const std::string& base) {
  constexpr int64_t kShardBytes = int64_t{5} << 30;
  NamedTensors tensors;
  std::vector<std::string> skipped{"lm_head"};  // modules that are linears and stay
  Nf4Folder out;
  for (Param& p : model.params.all()) {
    check(!p.lora, "{}: carries a LoRA; merge it first", p.name);
    if (is_linear(p)) {
      for (auto& t : packed_nf4(p.name, p.value)) tensors.push_back(std::move(t));
      out.packed += p.value.numel();
      continue;
    }
    tensors.emplace_back(p.name, unpacked(p.value));
    out.kept += p.value.numel();
    std::string module = p.name.substr(0, p.name.rfind('.'));
    module = module.substr(module.rfind('.') + 1);
    if (role_of(p.name).part == Part::kRouter &&
        std::find(skipped.begin(), skipped.end(), module) == skipped.end())
      skipped.push_back(module);
  }
  for (const auto& [name, t] : tensors) out.bytes += t.nbytes();
  AtomicFolder folder(dir);
  write_checkpoint(folder.dir(), tensors, kShardBytes);
  copy_side_files(base, folder.dir());
  Json config = model.config.json;
  config["quantization_config"] = nf4_config(skipped);
  write_file_atomic(folder.dir() + "/config.json", config.dump(2) + "\n");
  load_model(folder.dir());  // reads back
  folder.commit();
  return out;
}

}  // namespace sutor
