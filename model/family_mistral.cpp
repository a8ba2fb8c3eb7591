// Mistral (arXiv 2310.06825; transformers modeling_mistral.py): LLaMA's blocks with a sliding
// window: a token sees itself and the sliding_window - 1 tokens before it.
#include "model/decoder.h"
#include "model/gqa.h"

namespace sutor {
namespace {

void read(const Reader& r, Config& c) {
  read_common(r, c, {.max_positions = 131072});
  read_gqa(r, c, 8);
  read_one_window(r, c, 4096);
}

std::unique_ptr<Model> make(const Config& c, WeightSource source) {
  Reader r{c.json, c.where};
  Gqa::Options o = read_gqa(r, c, 8);
  DecoderOptions opt;
  opt.window = read_one_window(r, c, 4096);
  return std::make_unique<Decoder<Gqa>>(c, std::move(source), o, o.head_dim, opt);
}

}  // namespace

const Family family_mistral{read, make};

}  // namespace sutor
