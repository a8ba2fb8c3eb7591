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

std::vector<int64_t> windows(const Reader& r, const Config& c) {
  if (!r.value("use_sliding_window", false)) return {};
  int64_t first = r.not_negative("max_window_layers", 28);
  return read_windows(r, c, 4096, [first](int64_t i) { return i >= first; });
}

void read(const Reader& r, Config& c) {
  read_common(r, c, {.max_positions = 32768});
  attention(r, c);
  windows(r, c);
}

std::unique_ptr<Model> make(const Config& c, WeightSource source) {
  Reader r{c.json, c.where};
  Gqa::Options o = attention(r, c);
  DecoderOptions opt;
  opt.window = windows(r, c);
  return std::make_unique<Decoder<Gqa>>(c, std::move(source), o, o.head_dim, opt);
}

}  // namespace

const Family family_qwen2{read, make};

}  // namespace sutor
