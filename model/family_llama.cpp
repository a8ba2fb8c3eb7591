// LLaMA 1-3 and Yi (arXiv 2302.13971, 2407.21783; transformers modeling_llama.py): grouped-query
// attention, SwiGLU, RMSNorm, RoPE of every type, biases where the file asks for them.
#include "model/decoder.h"
#include "model/gqa.h"

namespace sutor {
namespace {

Gqa::Options attention(const Reader& r, const Config& c) {
  Gqa::Options o = read_gqa(r, c);
  o.qkv_bias = o.o_bias = r.value("attention_bias", false);
  return o;
}

void read(const Reader& r, Config& c) {
  read_common(r, c, {.max_positions = 2048});
  attention(r, c);
  r.value("mlp_bias", false);
}

std::unique_ptr<Model> make(const Config& c, WeightSource source) {
  Reader r{c.json, c.where};
  Gqa::Options o = attention(r, c);
  DecoderOptions opt;
  opt.mlp.bias = r.value("mlp_bias", false);
  return std::make_unique<Decoder<Gqa>>(c, std::move(source), o, o.head_dim, opt);
}

}  // namespace

const Family family_llama{read, make};

}  // namespace sutor
