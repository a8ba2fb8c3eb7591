// Qwen2idae (github.com/wuhy68/Parameter-Efficient-MoE, README): a Qwen1.5 or Qwen2 model whose
// MLPs have adapters as experts behind them (model/adapter_moe.h). Its code was never published:
// keys and names are taken to be Camelidae's, attention Qwen2's.
#include "model/adapter_moe.h"
#include "model/family.h"

namespace sutor {
namespace {

void read(const Reader& r, Config& c) {
  family_qwen2.read(r, c);
  read_adapters(r, c);
}

std::unique_ptr<Model> make(const Config& c, WeightSource source) {
  return family_qwen2.make(c, std::move(source));
}

}  // namespace

const Family family_qwen2idae{read, make, "qwen2", nullptr, "modeling_qwen2idae.Qwen2ForCausalLM"};

}  // namespace sutor
