#pragma once
// How text is drawn from a model: the options that generate and chat share, and where an answer
// ends.

#include "apps/args.h"
#include "io/tokenizer.h"
#include "model/generate.h"

namespace sutor {

void declare_sampling(Args& a, int64_t max_tokens);
// Usage errors for options without effect at --temperature 0, and for empty stop texts.
void check_sampling(const Args& a);
SampleOptions sample_options(const Args& a);
// The ids that end an answer: of config.json, generation_config.json and the tokenizer; none with
// --ignore-eos.
std::vector<int32_t> end_ids(const Args& a, const Model& model, const Tokenizer& tok);

// Text up to the first stop text; what may be the beginning of one is held back.
class StopAt {
 public:
  explicit StopAt(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  bool found() const { return found_; }
  std::string push(const std::string& piece);
  std::string finish() { return found_ ? "" : std::move(held_); }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

}  // namespace sutor
