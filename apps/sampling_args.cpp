#include "apps/sampling_args.h"

#include <algorithm>

namespace sutor {

void declare_sampling(Args& a, int64_t max_tokens) {
  a.integer("max-tokens", "new tokens at the most", max_tokens, 1, 1 << 20);
  a.real("temperature", "0: greedy", 0, 0, 100);
  a.real("top-p", "nucleus", 1, 0, 1);
  a.integer("top-k", "0: all", 0, 0, 1 << 20);
  a.real("min-p", "of the best token's probability", 0, 0, 1);
  a.real("repetition-penalty", "1: none", 1, 0.01, 100);
  a.list("stop", "text that ends the answer and is no part of it");
  a.flag("ignore-eos", "go on to --max-tokens");
}

void check_sampling(const Args& a) {
  for (const char* o : {"top-p", "top-k", "min-p", "seed"})
    a.no_effect_unless(a.real("temperature") > 0, o, "--temperature 0 is greedy");
  for (const std::string& s : a.all("stop"))
    if (s.empty()) throw UsageError("--stop: the empty text would end every answer");
}

SampleOptions sample_options(const Args& a) {
  return {a.real("temperature"),
          a.real("top-p"),
          a.real("min-p"),
          a.real("repetition-penalty"),
          a.num("top-k"),
          static_cast<uint64_t>(a.num("seed")),
          0};
}

std::vector<int32_t> end_ids(const Args& a, const Model& model, const Tokenizer& tok) {
  if (a.on("ignore-eos")) return {};
  std::vector<int32_t> ids = model.config.eos;
  if (tok.eos() >= 0) ids.push_back(tok.eos());
  return ids;
}

std::string StopAt::push(const std::string& piece) {
  if (found_) return "";
  held_ += piece;
  size_t end = held_.npos;
  for (const std::string& s : stops_) end = std::min(end, held_.find(s));
  if (end != held_.npos) {
    found_ = true;
    return held_.substr(0, end);
  }
  size_t hold = 0;
  for (const std::string& s : stops_)
    for (size_t n = std::min(s.size() - 1, held_.size()); n > hold; --n)
      if (held_.ends_with(std::string_view(s).substr(0, n))) hold = n;
  std::string out = held_.substr(0, held_.size() - hold);
  held_.erase(0, out.size());
  return out;
}

}  // namespace sutor
