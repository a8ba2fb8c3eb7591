// DeepSeek-V2 and V2-Lite (arXiv 2405.04434; modeling_deepseek.py): multi-head latent attention
// with or without q_lora, YaRN, interleaved RoPE, softmax routing (greedy or group-limited), routed
// scaling, shared experts, sequence-wise balance loss.
//
// Two things follow the authors' code where transformers differs: the latent norms' eps
// (model/mla.cpp), and with norm_topk_prob the routed scaling factor is not applied.
#include "model/decoder.h"
#include "model/deepseek.h"
#include "model/mla.h"

namespace sutor {
namespace {

void read(const Reader& r, Config& c) {
  read_common(r, c, {.max_positions = 2048, .rope_types = {"default", "yarn"}});
  read_mla(r, c);
  read_deepseek_experts(r, c, {});
  r.choice("scoring_func", "softmax", {"softmax"});
  c.route.normalize = r.value("norm_topk_prob", false);
  // modeling_deepseek.py: the factor scales the weights only where they are not normalised.
  c.route.scale = c.route.normalize && c.route.top_k > 1
                      ? 1.0f
                      : static_cast<float>(r.value("routed_scaling_factor", 1.0));
  if (c.route.top_k == 1) c.route.normalize = false;
  if (r.choice("topk_method", "greedy", {"greedy", "group_limited_greedy"}) ==
      "group_limited_greedy")
    read_groups(r, c);
  read_sequence_loss(r, c);
}

std::unique_ptr<Model> make(const Config& config, WeightSource source) {
  Config c = config;
  Mla::Options mla = read_mla({c.json, c.where}, c);
  DecoderOptions opt;
  opt.moe.shared = "shared_experts";
  return std::make_unique<Decoder<Mla>>(c, std::move(source), mla, mla.rope, opt);
}

}  // namespace

const Family family_deepseek_v2{read, make};

}  // namespace sutor
