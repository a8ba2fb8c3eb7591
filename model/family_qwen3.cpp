// Qwen3, dense (arXiv 2505.09388; transformers modeling_qwen3.py): no biases but where
// attention_bias asks for them, RMSNorm of every query and key head, head_dim 128 unless given;
// windows as Qwen2.
#include "model/decoder.h"
#include "model/gqa.h"

namespace sutor {
namespace {

Gqa::Options attention(const Reader& r, const Config& c) {
  Gqa::Options o = read_gqa(r, c, 32, 128);
  o.qkv_bias = o.o_bias = r.value("attention_bias", false);
  o.norm = QkNorm::kHead;
  return o;
}

void read(const Reader& r, Config& c) {
  read_common(r, c, {.max_positions = 32768});
  attention(r, c);
  read_last_windows(r, c);
}

std::unique_ptr<Model> make(const Config& c, WeightSource source) {
  Reader r{c.json, c.where};
  Gqa::Options o = attention(r, c);
  DecoderOptions opt;
  opt.window = read_last_windows(r, c);
  return std::make_unique<Decoder<Gqa>>(c, std::move(source), o, o.head_dim, opt);
}

}  // namespace

const Family family_qwen3{read, make};

}  // namespace sutor
