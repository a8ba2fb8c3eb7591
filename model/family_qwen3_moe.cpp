// Qwen3-MoE (arXiv 2505.09388; transformers modeling_qwen3_moe.py): Qwen3's attention, routed
// experts without a shared one. norm_topk_prob is false where the file does not say, as in
// transformers' config class; the released files say true.
#include "model/decoder.h"
#include "model/gqa.h"

namespace sutor {
namespace {

Gqa::Options attention(const Reader& r, const Config& c) {
  Gqa::Options o = read_gqa(r, c, 4);
  o.qkv_bias = o.o_bias = r.value("attention_bias", false);
  o.norm = QkNorm::kHead;
  return o;
}

std::vector<int64_t> windows(const Reader& r, const Config& c) {
  bool slides = r.value("use_sliding_window", false);
  return slides ? read_one_window(r, c, 4096) : std::vector<int64_t>();
}

void read(const Reader& r, Config& c) {
  read_common(r, c, {.max_positions = 32768});
  attention(r, c);
  windows(r, c);
  read_experts(r, c, r.positive("moe_intermediate_size", 768));
  read_sparse_layers(r, c);
  c.route.normalize = r.value("norm_topk_prob", false);
  read_switch_loss(r, c, 0.001);
}

std::unique_ptr<Model> make(const Config& c, WeightSource source) {
  Reader r{c.json, c.where};
  Gqa::Options o = attention(r, c);
  DecoderOptions opt;
  opt.window = windows(r, c);
  return std::make_unique<Decoder<Gqa>>(c, std::move(source), o, o.head_dim, opt);
}

}  // namespace

const Family family_qwen3_moe{read, make};

}  // namespace sutor
