// Mixtral (arXiv 2401.04088; transformers modeling_mixtral.py): Mistral's attention; in every layer
// experts w1 (gate), w3 (up), w2 (down), the chosen weights always normalised.
#include "model/decoder.h"
#include "model/gqa.h"

namespace sutor {
namespace {

void read(const Reader& r, Config& c) {
  read_common(r, c, {.max_positions = 131072, .norm_eps = 1e-5, .rope_theta = 1e6});
  read_gqa(r, c, 8);
  read_one_window(r, c, 0);
  read_experts(r, c, c.intermediate);
  double jitter = r.value("router_jitter_noise", 0.0);  // transformers' training, on every input
  check(jitter == 0, "{}: router_jitter_noise is {}, not implemented (allowed: 0)", r.where,
        jitter);
  c.route.normalize = true;
  c.sparse.assign(c.layers, true);
  read_switch_loss(r, c, 0.001);
}

std::unique_ptr<Model> make(const Config& c, WeightSource source) {
  Reader r{c.json, c.where};
  Gqa::Options o = read_gqa(r, c, 8);
  DecoderOptions opt;
  opt.window = read_one_window(r, c, 0);
  opt.moe.block = "block_sparse_moe";
  opt.moe.expert = {.gate = "w1", .up = "w3", .down = "w2"};
  return std::make_unique<Decoder<Gqa>>(c, std::move(source), o, o.head_dim, opt);
}

}  // namespace

const Family family_mixtral{read, make};

}  // namespace sutor
