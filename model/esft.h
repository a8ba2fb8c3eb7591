#pragma once
// Expert-Specialized Fine-Tuning (arXiv 2407.01906, sections 3.2-3.3): score the experts of each
// MoE layer on a task's tokens, keep the best until their cumulative score reaches p, train only
// those.
//   token score of e = (tokens that chose e) / (K T)      gate score of e = (sum of e's weights
//   where chosen) / T
// Pooled over all tokens (as published: deepseek-ai/ESFT results/), or the mean of per-sample
// scores (the paper's eq. 6-7).

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tensor.h"

namespace sutor {

using LayerScores = std::map<int, std::vector<double>>;  // layer -> score of each expert
struct Scores {
  LayerScores token, gate;
};

class ScoreAccumulator {
 public:
  ScoreAccumulator(int experts, int top_k, bool per_sample)
      : experts_(experts), top_k_(top_k), per_sample_(per_sample) {}
  // One sample's routing in one layer: ids[n*K], weights[n*K]. normalize: each token's weights
  // divided by their sum first.
  template <class W>  // float or double
  void add(int layer, const int32_t* ids, const W* weights, int64_t tokens, bool normalize = false);
  Scores scores() const;

 private:
  struct Layer {
    std::vector<double> count, weight;
    int64_t tokens = 0, samples = 0;
  };
  int experts_, top_k_;
  bool per_sample_;
  std::map<int, Layer> layers_;
};

// The published routing logs: DIR/expert_weights_<layer>.txt; a line is a sample: K ids per token,
// two tabs, as many weights. Errors name the file and the line; all layers must have the same
// samples.
Scores scores_from_raw(const std::string& dir, int top_k, int experts, bool per_sample = false);

// One sample of such a log, n = tokens * K, 4 decimals, with its newline.
std::string raw_line(const int32_t* ids, const float* weights, int64_t n);

// {"token_scores": {layer: {expert: x}}, "gate_scores": ...}; 4 decimals, byte for byte as
// published (Python's json.dumps).
void write_scores(const std::string& path, const Scores& scores);
Scores read_scores(const std::string& path);

struct ExpertConfig {
  std::map<int, std::vector<int>> experts;  // layer -> ids, best first
  bool shared_experts = false, non_expert_modules = false;
};

// Stable descending order; append while the sum so far is < top_p (at least one expert).
ExpertConfig select_experts(const LayerScores& scores, double top_p);
// As many experts in each layer, drawn at random: the paper's Table 4 control.
ExpertConfig randomize(const ExpertConfig& config, const LayerScores& scores, uint64_t seed);

std::string to_json(const ExpertConfig& config);  // byte for byte as published
// one_indexed: the file counts layers from 1 (others' do; ours and the authors' count from 0).
ExpertConfig read_expert_config(const std::string& path, bool one_indexed = false);
// Throws unless every layer is one of moe_layers and every id < experts. has_option: whether the
// user could say --one-indexed for that file.
void check_expert_config(const ExpertConfig& config, const std::vector<int>& moe_layers,
                         int64_t experts, const std::string& where, bool has_option);
// Whether the config trains the parameter of that name: a listed expert's, with shared_experts
// theirs, with non_expert_modules whatever belongs to neither (the authors' to_esft).
bool trains(const ExpertConfig& config, std::string_view name);

}  // namespace sutor
