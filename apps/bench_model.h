#pragma once
// `sutor bench train` and `infer`: a model on random token ids, no tokenizer needed.

#include <string>
#include <vector>

#include "apps/common.h"

namespace sutor {

struct ModelTiming {
  struct Row {
    std::string what;
    double tokens = 0, seconds = 0;  // of one step, or phase; seconds: median of --repeats
    double flop = 0;                 // useful: recomputation does not count
    double bytes = 0;                // of weights that must be read
  };
  std::vector<Row> rows;
};

// Steps of --batch x --seq tokens, all of them trained; the first is not counted.
ModelTiming time_training(const Args& a, Ctx& ctx);
// A prompt of --seq tokens, then --max-tokens greedy ones.
ModelTiming time_inference(const Args& a, Ctx& ctx);

}  // namespace sutor
