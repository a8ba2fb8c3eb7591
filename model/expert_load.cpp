#include "model/expert_load.h"

#include <cmath>

namespace sutor {

double load_cv(const std::vector<int64_t>& tokens) {
  double sum = 0, squares = 0;
  for (int64_t n : tokens) {
    sum += static_cast<double>(n);
    squares += static_cast<double>(n) * static_cast<double>(n);
  }
  if (sum == 0) return 0;
  const double mean = sum / static_cast<double>(tokens.size());
  return std::sqrt(std::max(0.0, squares / static_cast<double>(tokens.size()) - mean * mean)) /
         mean;
}

void LoadTap::routing(int layer, const Routing& r) {
  if (!counting_) return;
  std::vector<int64_t>& tokens = load_[layer];
  tokens.resize(static_cast<size_t>(r.probs.value.cols()));
  for (int64_t i = 0; i < r.expert.numel(); ++i) ++tokens[static_cast<size_t>(r.expert.i32()[i])];
}

}  // namespace sutor
