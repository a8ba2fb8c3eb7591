// Mixtral (arXiv 2401.04088; transformers modeling_mixtral.py): Mistral's attention; in every layer
// experts w1 (gate), w3 (up), w2 (down), the chosen weights always normalised.
#include "model/decoder.h"
#include "model/gqa.h"

namespace sutor {
namespace {

std::vector<int64_t> windows(const Reader& r, const Config& c) {
  return read_windows(r, c, 0, [](int64_t) { return true; });
}

void read(const Reader& r, Config& c) {
  read_common(r, c, {.max_positions = 131072, .norm_eps = 1e-5, .rope_theta = 1e6});
  read_gqa(r, c, 8);
  windows(r, c);
  read_experts(r, c, c.intermediate);
  c.route.normalize = true;
  c.sparse.assign(c.layers, true);
  read_switch_loss(r, c, 0.001);
}

std::unique_ptr<Model> make(const Config& c, WeightSource source) {
  Reader r{c.json, c.where};
  Gqa::Options o = read_gqa(r, c, 8);
  DecoderOptions opt;
  opt.window = windows(r, c);
  opt.moe.block = "block_sparse_moe";
  opt.moe.expert = {.gate = "w1", .up = "w3", .down = "w2"};
  return std::make_unique<Decoder<Gqa>>(c, std::move(source), o, o.head_dim, opt);
}

}  // namespace

const Family family_mixtral{read, make};

}  // namespace sutor
