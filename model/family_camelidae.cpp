// Camelidae (arXiv 2401.02731; camelidae/modeling_camelidae.py): a LLaMA or Yi model whose MLPs
// have adapters as experts behind them (model/adapter_moe.h). First uploads say model_type "llama".
//
// rope_theta is obeyed, as in the forks of the authors' code; that itself rotates with base 10000
// whatever the file says.
#include "model/adapter_moe.h"
#include "model/family.h"

namespace sutor {
namespace {

void read(const Reader& r, Config& c) {
  family_llama.read(r, c);
  read_adapters(r, c);
}

std::unique_ptr<Model> make(const Config& c, WeightSource source) {
  auto model = family_llama.make(c, std::move(source));
  if (c.rope.theta != 10000)
    model->notices.push_back(fmt::format(
        "{}: rope_theta is {}; the authors' code rotates with 10000 whatever it says: to have "
        "their numbers, set it to 10000",
        c.where, c.rope.theta));
  return model;
}

}  // namespace

const Family family_camelidae{read, make, "llama", "configuration_camelidae.CamelidaeConfig",
                              "modeling_camelidae.LlamaForCausalLM"};

}  // namespace sutor
