#pragma once
// RoPE of a model: config keys -> inverse frequencies -> the angles of tokens. Types: default,
// linear (positions / factor), dynamic (NTK: the base grows with the document), yarn (arXiv
// 2309.00071) and llama3 (Llama 3.1). Formulas: transformers 5.23, modeling_rope_utils.py.

#include "engine/ops.h"
#include "model/reader.h"

namespace sutor {

enum class RopeType { kDefault, kLinear, kDynamic, kYarn, kLlama3 };

struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000, factor = 1;
  double cos_scale = 1;                   // yarn's attention factor, on cos and sin
  bool cos_scale_given = false;           // the file says it: attention_factor
  double beta_fast = 32, beta_slow = 1;   // yarn
  double mscale = 1, mscale_all_dim = 0;  // yarn, as DeepSeek uses them
  bool truncate = true;                   // yarn: bounds of the ramp are whole
  double low_freq = 1, high_freq = 4;     // llama3
  int64_t original_max_positions = 4096;  // yarn, llama3; dynamic: from here on the base grows
  bool operator==(const RopeConfig&) const = default;
};

// rope_theta and rope_scaling (transformers 4), or rope_parameters (5); both only if they agree.
RopeConfig read_rope(const Reader& r, double theta, int64_t max_positions,
                     const std::vector<std::string>& types = {"default", "linear", "dynamic",
                                                              "yarn", "llama3"});
double yarn_mscale(double factor, double mscale);  // 0.1 mscale ln(factor) + 1

// For heads (or their rotary part) of `dim` columns and a document of `length` tokens: [dim/2].
std::vector<double> inverse_frequencies(const RopeConfig& r, int64_t dim, int64_t length = 0);

class Rope {
 public:
  Rope(const RopeConfig& config, int64_t dim)
      : config_(config), dim_(dim), inv_freq_(inverse_frequencies(config, dim)) {}
  // By the position of each token; position 0 begins a document. Dynamic: a document's base depends
  // on its length, or with `alone`, on the position of the token (a cache that grows token by
  // token; transformers' generate() does so too).
  RopeAngles angles(const Tensor& positions, bool alone = false) const;

 private:
  RopeConfig config_;
  int64_t dim_;
  std::vector<double> inv_freq_;
};

}  // namespace sutor
