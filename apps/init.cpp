// sutor init: a new model with seeded random weights.
#include <filesystem>

#include "apps/commands.h"
#include "apps/common.h"
#include "model/checkpoint.h"

namespace sutor {
namespace {

void declare(Args& a) {
  a.positional("CONFIG",
               "config.json, or a folder with one (tokenizer files beside it are copied)");
  a.string("out", "hub folder to write");
  a.integer("seed", "of the weights", 0, 0, INT64_MAX / 2);
  a.choice("weights", "type in the file", "BF16", {"BF16", "F32"});
  a.flag("json", "what was written, as JSON");
  a.flag("quiet", "no progress on stderr");
}

void run(const Args& a) {
  const std::string& out = a.required("out");
  check_model_folder_to_be(out);
  Config config = read_config(a.str("CONFIG"));
  auto source = random_source(config, static_cast<uint64_t>(a.num("seed")),
                              a.str("weights") == "F32" ? DType::F32 : DType::BF16);
  auto model = make_model(config, source);
  print_notices(a, *model);
  std::string beside = std::filesystem::path(config.where).parent_path().string();
  write_model(out, *model, beside.empty() ? "." : beside);
  if (!a.on("json")) return;
  int64_t parameters = 0;
  for (const Param& p : model->params.all()) parameters += p.value.numel();
  print_json({{"out", out}, {"parameters", parameters}, {"seed", a.num("seed")}});
}

}  // namespace
const Command kInit{"init", "a new model with seeded random weights",
                    "sutor init config.json --seed 1 --out model/", declare, run};
}  // namespace sutor
