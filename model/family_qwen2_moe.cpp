// Qwen1.5-MoE and Qwen2-MoE (arXiv 2407.10671; transformers modeling_qwen2_moe.py): Qwen2's
// attention; routed experts, weights as the softmax gives them unless norm_topk_prob, and one
// shared expert times a sigmoid gate; layers may stay dense (decoder_sparse_step, mlp_only_layers).
#include "model/decoder.h"
#include "model/gqa.h"

namespace sutor {
namespace {

Gqa::Options attention(const Reader& r, const Config& c) {
  Gqa::Options o = read_gqa(r, c, 16);
  o.qkv_bias = r.value("qkv_bias", true);
  return o;
}

std::vector<int64_t> windows(const Reader& r, const Config& c) {
  if (!r.value("use_sliding_window", false)) return {};
  int64_t full = r.not_negative("max_window_layers", 28);
  return read_windows(r, c, 4096, [full](int64_t i) { return i % 2 == 0 && i < full; });
}

void read(const Reader& r, Config& c) {
  read_common(r, c, {.max_positions = 32768});
  attention(r, c);
  windows(r, c);
  read_experts(r, c, r.positive("moe_intermediate_size", 1408));
  read_sparse_layers(r, c);
  c.route.normalize = r.value("norm_topk_prob", false);
  c.shared_experts = 1;
  c.shared_width = r.positive("shared_expert_intermediate_size", 5632);
  read_switch_loss(r, c, 0.001);
}

std::unique_ptr<Model> make(const Config& c, WeightSource source) {
  Reader r{c.json, c.where};
  Gqa::Options o = attention(r, c);
  DecoderOptions opt;
  opt.window = windows(r, c);
  opt.moe.shared = "shared_expert";
  opt.moe.shared_gate = true;
  return std::make_unique<Decoder<Gqa>>(c, std::move(source), o, o.head_dim, opt);
}

}  // namespace

const Family family_qwen2_moe{read, make};

}  // namespace sutor
