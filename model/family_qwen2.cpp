// Qwen1.5, Qwen2 and Qwen2.5, dense (arXiv 2407.10671; transformers modeling_qwen2.py): LLaMA's
// blocks with biases on query, key and value; a window, if use_sliding_window asks for it, from
// layer max_window_layers on.
#include "model/decoder.h"
#include "model/gqa.h"

namespace sutor {
namespace {

Gqa::Options attention(const Reader& r, const Config& c) {
  Gqa::Options o = read_gqa(r, c, 32);
  o.qkv_bias = true;
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

const Family family_qwen2{read, make};

}  // namespace sutor
