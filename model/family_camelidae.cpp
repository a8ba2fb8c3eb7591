// Camelidae (arXiv 2401.02731; camelidae/modeling_camelidae.py): a LLaMA or Yi model whose MLPs
// have adapters as experts behind them (model/adapter_moe.h). First uploads say model_type "llama".
//
// rope_theta is obeyed, as in the forks of the authors' code; that itself rotates with base 10000
// whatever the file says, which craft and inspect tell (model/pesc.h, beyond_authors).
#include "model/adapter_moe.h"
#include "model/family.h"

namespace sutor {
namespace {

void read(const Reader& r, Config& c) {
  family_llama.read(r, c);
  read_adapters(r, c);
}

}  // namespace

const Family family_camelidae{read, family_llama.make, "llama",
                              "configuration_camelidae.CamelidaeConfig",
                              "modeling_camelidae.LlamaForCausalLM"};

}  // namespace sutor
