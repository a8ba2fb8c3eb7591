// sutor init: a new model with seeded random weights.
#include <filesystem>

#include "apps/commands.h"
#include "apps/common.h"
#include "engine/quant.h"
#include "model/checkpoint.h"
#include "model/family.h"
#include "model/lora.h"
#include "model/nf4_folder.h"

namespace sutor {
namespace {

void declare(Args& a) {
  a.positional("CONFIG",
               "config.json, or a folder with one (tokenizer files beside it are copied)");
  a.string("out", "hub folder to write");
  a.integer("seed", "of the weights", 0, 0, INT64_MAX / 2);
  a.choice("weights", "type in the file; NF4: drawn in BF16, linears kept in 4 bits one by one",
           "BF16", {"BF16", "F32", "NF4"});
  a.flag("json", "what was written, as JSON");
  a.flag("quiet", "no progress on stderr");
}

// What is drawn, linears packed at once: never all of the model in 16 bits.
WeightSource packing(WeightSource source) {
  return [source = std::move(source)](const std::string& name, const Shape& shape) {
    Param p;
    p.name = name;
    p.value = source(name, shape);
    return is_linear(p) ? nf4_tensor(pack_nf4(p.value), shape, p.value.dtype) : p.value;
  };
}

void run(const Args& a) {
  const std::string& out = a.required("out");
  check_model_folder_to_be(out);
  Config config = read_config(a.str("CONFIG"));
  auto source = random_source(config, static_cast<uint64_t>(a.num("seed")),
                              a.str("weights") == "F32" ? DType::F32 : DType::BF16);
  const bool nf4 = a.str("weights") == "NF4";
  auto model = make_model(config, nf4 ? packing(source) : source);
  print_notices(a, *model);
  const std::string parent = std::filesystem::path(config.where).parent_path().string(),
                    beside = parent.empty() ? std::string(".") : parent;
  if (nf4)
    write_nf4_folder(out, *model, beside);
  else
    write_model(out, *model, beside);
  if (!a.on("json")) return;
  int64_t parameters = 0;
  for (const Param& p : model->params.all()) parameters += p.value.numel();
  print_json({{"out", out}, {"parameters", parameters}, {"seed", a.num("seed")}});
}

}  // namespace
const Command kInit{"init", "a new model with seeded random weights",
                    "sutor init config.json --seed 1 --out model/", declare, run};
}  // namespace sutor
