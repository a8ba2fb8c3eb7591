// OLMoE (arXiv 2409.02060; transformers modeling_olmoe.py): RMSNorm over all query and over all key
// heads together, then perhaps clip_qkv; in every layer routed experts, weights as the softmax
// gives them unless norm_topk_prob.
#include "model/decoder.h"
#include "model/gqa.h"

namespace sutor {
namespace {

Gqa::Options attention(const Reader& r, const Config& c) {
  Gqa::Options o = read_gqa(r, c);
  o.qkv_bias = o.o_bias = r.value("attention_bias", false);
  o.norm = QkNorm::kFull;
  if (r.has("clip_qkv")) o.clip = static_cast<float>(r.number("clip_qkv", 0));
  return o;
}

void read(const Reader& r, Config& c) {
  read_common(r, c, {.max_positions = 4096, .norm_eps = 1e-5});
  attention(r, c);
  read_experts(r, c, c.intermediate);
  c.route.normalize = r.value("norm_topk_prob", false);
  c.sparse.assign(c.layers, true);
  read_switch_loss(r, c, 0.01);
}

std::unique_ptr<Model> make(const Config& c, WeightSource source) {
  Gqa::Options o = attention({c.json, c.where}, c);
  return std::make_unique<Decoder<Gqa>>(c, std::move(source), o, o.head_dim, DecoderOptions());
}

}  // namespace

const Family family_olmoe{read, make};

}  // namespace sutor
