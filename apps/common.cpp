#include "apps/common.h"

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "apps/run_checkpoint.h"
#include "io/file.h"
#include "io/memory.h"
#include "model/checkpoint.h"
#include "model/huge_pages.h"

namespace sutor {

void declare_model(Args& a, bool optional) {
  a.positional("MODEL",
               "hub folder (config.json, safetensors or .bin, tokenizer), .gguf file, or a run's "
               "checkpoint-N",
               optional);
  a.list("adapter", "ESFT adapter, PEFT LoRA or PESC adapter folder");
  a.common();
}

std::unique_ptr<Model> open_model(const Args& a, Replaced* replaced) {
  const std::string& folder = a.str("MODEL");
  const Compute compute = a.str("dtype") == "f32" ? Compute::kF32 : Compute::kBF16;
  auto model = is_run_checkpoint(folder) ? load_run_checkpoint(folder, compute)
                                         : load_model(folder, compute);
  Replaced own;
  for (const std::string& dir : a.all("adapter"))
    check(!is_run_checkpoint(dir),
          "--adapter {}: is a checkpoint of a run, which is a whole model: name it as MODEL, in "
          "place of {}",
          dir, folder);
  for (const std::string& dir : a.all("adapter"))
    load_adapter(*model, dir, replaced != nullptr ? replaced : &own);
  print_notices(a, *model);
  return model;
}

void declare_weights(Args& a) {
  a.choice("weights",
           "huge: read into huge pages once, which are read faster; map: as the file lies; auto: "
           "huge where the model is passed 32 times (new tokens, micro-batches) and memory allows",
           "auto", {"auto", "huge", "map"});
}

void place_weights(const Args& a, Model& model, int64_t passes, std::optional<int64_t> room) {
  constexpr int64_t kPays = 32, kSmall = 64 << 20;  // what fits the caches needs no help
  if (a.str("weights") == "map") return;
  if (a.str("weights") == "auto") {
    int64_t bytes = mapped_weight_bytes(model);
    if (passes < kPays || bytes < kSmall || bytes > room.value_or(available_memory() / 2)) return;
  }
  move_to_huge_pages(model);
}

void print_notices(const Args& a, const Model& model) {
  for (const std::string& s : model.notices)
    if (!a.on("quiet")) note("{}\n", s);
}

void check_model_folder_to_be(const std::string& out) {
  namespace fs = std::filesystem;
  check(!fs::exists(out) || (fs::is_directory(out) && fs::is_empty(out)),
        "{}: exists and is not empty; name a new folder", out);
  check_can_write(out, true);
}

void check_not_an_input(const std::string& out, std::initializer_list<std::string> inputs) {
  namespace fs = std::filesystem;
  std::error_code none;
  for (const std::string& in : inputs)
    check(in.empty() || !fs::equivalent(in, out, none), "{}: is an input; name another file", out);
}

void print_json(const Json& j) { fmt::print("{}\n", j.dump(2)); }

int64_t Stopwatch::now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

double Stopwatch::seconds() const { return static_cast<double>(now() - begin_) * 1e-9; }

int64_t peak_bytes() { return process_bytes("VmHWM"); }

}  // namespace sutor
