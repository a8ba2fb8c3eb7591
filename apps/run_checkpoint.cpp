// checkpoint-N as MODEL (apps/run_checkpoint.h): what trains is what the checkpoint holds
// masters of. Test: tests/adapters.cpp.

#include "apps/run_checkpoint.h"

#include <yaml-cpp/yaml.h>

#include <filesystem>

#include "engine/dry_run.h"
#include "engine/quant.h"
#include "model/base_print.h"
#include "model/checkpoint.h"
#include "model/pesc_adapter.h"
#include "model/run_state.h"

namespace sutor {
namespace fs = std::filesystem;
namespace {

struct Run {
  std::string file, base, method;
  std::vector<std::string> adapters;
  LoraOptions lora{0, 0, {}, 0};  // rank 0: none
};

Run run_of(const std::string& folder) {
  Run r;
  r.file = (fs::absolute(fs::path(folder) / "").parent_path().parent_path() / "run.yaml").string();
  check(fs::is_regular_file(r.file), "{}: a checkpoint of a run, and {} is not there", folder,
        r.file);
  try {
    const YAML::Node y = YAML::LoadFile(r.file);
    r.base = y["MODEL"].as<std::string>();
    r.method = y["method"].as<std::string>();
    if (y["adapter"]) r.adapters = y["adapter"].as<std::vector<std::string>>();
    if (r.method == "lora" || r.method == "pesc") {
      r.lora.rank = y["rank"].as<int64_t>();
      r.lora.alpha = y["alpha"].as<double>();
      if (r.method == "pesc") r.lora.targets = pesc_lora_targets();
    }
  } catch (const YAML::Exception& e) {
    fail("{}: {}", r.file, e.msg);
  }
  check(fs::is_directory(r.base),
        "{}: MODEL is {}, which is not here: say it from where the run was started", r.file,
        r.base);
  return r;
}

}  // namespace

bool is_run_checkpoint(const std::string& folder) { return is_run_state(folder); }

std::string hub_folder(const std::string& folder) {
  return is_run_checkpoint(folder) ? run_of(folder).base : folder;
}

std::unique_ptr<Model> load_run_checkpoint(const std::string& folder, Compute compute) {
  const Run run = run_of(folder);
  auto model = load_model(run.base, compute);
  Replaced replaced;
  for (const std::string& dir : run.adapters) load_adapter(*model, dir, &replaced);
  if (run.lora.rank > 0) add_lora(*model, run.lora, 0);
  const StateFile files(folder);
  constexpr std::string_view kMaster = "master.", kValue = "value.";
  for (const std::string& key : files.names()) {
    const bool value = key.starts_with(kValue);  // beside an I16 master: model/run_state.h
    if (!value && (!key.starts_with(kMaster) || files.dtype(key) == DType::I16)) continue;
    const std::string name = key.substr((value ? kValue : kMaster).size());
    check(model->params.has(name), "{}: holds {}, which {} has not", folder, name, run.base);
    Param& p = model->params.at(name);
    const Tensor t = files.tensor(key);
    check(t.shape == p.value.shape, "{}: {} has shape {}, {} asks for {}", folder, name,
          to_string(t.shape), run.base, to_string(p.value.shape));
    if (!dry_run()) model->base.replaced.emplace(name, sample_of(name, p.value));
    const DType kept = float_type(p.value);
    p.value = kept == t.dtype ? t : cast(t, kept);
  }
  return model;
}

}  // namespace sutor
