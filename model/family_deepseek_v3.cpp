// DeepSeek-V3 and R1 (arXiv 2412.19437; modeling_deepseek.py, transformers
// modeling_deepseek_v3.py): V2's latent attention; sigmoid scores, of which the experts are chosen
// by score + a bias (noaux_tc: e_score_correction_bias, not trained, not in the weights) within the
// groups whose two best sum highest; weights normalised, then scaled. The multi-token-prediction
// layer behind the last one is training's alone and is left out.
#include "model/decoder.h"
#include "model/deepseek.h"
#include "model/mla.h"

namespace sutor {
namespace {

void read(const Reader& r, Config& c) {
  read_common(r, c, {.max_positions = 4096, .rope_types = {"default", "yarn"}});
  read_mla(r, c);
  r.fixed("rope_interleave", true);
  read_deepseek_experts(r, c, {.width = 2048, .shared = 1, .dense = 3});
  r.choice("scoring_func", "sigmoid", {"sigmoid"});
  r.choice("topk_method", "noaux_tc", {"noaux_tc"});
  c.route.score = RouteScore::kSigmoid;
  c.route.group_score = GroupScore::kTop2Sum;
  c.route.normalize = r.value("norm_topk_prob", true);
  c.route.scale = static_cast<float>(r.value("routed_scaling_factor", 2.5));
  read_groups(r, c);
  c.unused_layers = r.not_negative(r.one_of({"num_nextn_predict_layers", "num_mtp_layers"}), 1);
  read_sequence_loss(r, c);
}

std::unique_ptr<Model> make(const Config& config, WeightSource source) {
  Config c = config;
  Mla::Options mla = read_mla({c.json, c.where}, c);
  DecoderOptions opt;
  opt.moe.shared = "shared_experts";
  opt.moe.select_bias = "gate.e_score_correction_bias";
  return std::make_unique<Decoder<Mla>>(c, std::move(source), mla, mla.rope, opt);
}

}  // namespace

const Family family_deepseek_v3{read, make};

}  // namespace sutor
