// sutor quantize: a copy of the model with its linears in 4 bits, as bitsandbytes stores them.
// Embeddings, head, norms and routers stay as they are.
#include <algorithm>
#include <filesystem>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/run_checkpoint.h"
#include "engine/quant.h"
#include "io/file.h"
#include "model/checkpoint.h"
#include "model/lora.h"
#include "model/names.h"
#include "model/nf4.h"

namespace sutor {
namespace {

void declare(Args& a) {
  declare_model(a);
  a.choice("to", "format: NF4, double quantised", "nf4", {"nf4"});
  a.string("out", "hub folder to write");
}

void run(const Args& a) {
  const std::string& out = a.required("out");
  check_model_folder_to_be(out);
  auto model = open_model(a);
  check(model->base.packed != "NF4",
        "{}: is in NF4 already; name the model that it was made from: packing it again would lose "
        "more of it",
        a.str("MODEL"));
  NamedTensors tensors;
  std::vector<std::string> skipped{"lm_head"};  // modules that are linears and stay
  int64_t packed = 0, kept = 0;
  for (Param& p : model->params.all()) {
    check(!p.lora, "{}: carries a LoRA; merge it first", p.name);
    if (!is_linear(p)) {
      tensors.emplace_back(p.name, p.value);
      kept += p.value.numel();
      std::string module = p.name.substr(0, p.name.rfind('.'));
      module = module.substr(module.rfind('.') + 1);
      if (role_of(p.name).part == Part::kRouter &&
          std::find(skipped.begin(), skipped.end(), module) == skipped.end())
        skipped.push_back(module);
      continue;
    }
    for (auto& t : packed_nf4(p.name, unpacked(p.value))) tensors.push_back(std::move(t));
    packed += p.value.numel();
  }
  AtomicFolder folder(out);
  write_checkpoint(folder.dir(), tensors);
  copy_side_files(hub_folder(a.str("MODEL")), folder.dir());
  Json config = model->config.json;
  config["quantization_config"] = nf4_config(skipped);
  write_file_atomic(folder.dir() + "/config.json", config.dump(2) + "\n");
  load_model(folder.dir());  // reads back
  folder.commit();
  int64_t bytes = 0;
  for (const auto& [name, t] : tensors) bytes += t.nbytes();
  if (a.on("json"))
    return print_json({{"out", out}, {"quantised", packed}, {"kept", kept}, {"bytes", bytes}});
  fmt::print("{} weights in 4 bits, {} as they were: {:.1f} MB\n", packed, kept,
             static_cast<double>(bytes) * 1e-6);
}

}  // namespace
const Command kQuantize{"quantize", "a copy of a model in 4 bits (bitsandbytes' NF4)",
                        "sutor quantize model/ --to nf4 --out model-nf4/", declare, run};
}  // namespace sutor
