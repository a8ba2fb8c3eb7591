// Sparsetral (github.com/serp-ai/Parameter-Efficient-MoE, sparsetral/modeling_sparsetral.py): a
// Mistral model whose MLPs have adapters as experts behind them (model/adapter_moe.h), experts
// named by their number alone. The authors' class says model_type "mistral".
#include "model/decoder.h"
#include "model/gqa.h"

namespace sutor {
namespace {

void read(const Reader& r, Config& c) {
  read_common(r, c, {.max_positions = 32768});
  read_gqa(r, c, 8);
  read_one_window(r, c, 4096);
  read_adapters(
      r, c, {.experts = 16, .top_k = 4, .dim = 512, .scaling = 1, .dropout = 0, .balance = false});
}

std::unique_ptr<Model> make(const Config& c, WeightSource source) {
  Reader r{c.json, c.where};
  Gqa::Options o = read_gqa(r, c, 8);
  DecoderOptions opt;
  opt.window = read_one_window(r, c, 4096);
  opt.adapter = "";
  return std::make_unique<Decoder<Gqa>>(c, std::move(source), o, o.head_dim, opt);
}

}  // namespace

const Family family_sparsetral{read, make, "mistral", "configuration_sparsetral.SparsetralConfig",
                               "modeling_sparsetral.MistralForCausalLM"};

}  // namespace sutor
