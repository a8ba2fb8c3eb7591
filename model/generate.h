#pragma once
// Generation: prefill, then one token at a time; greedy or sampled.

#include "model/model.h"

namespace sutor {

struct SampleOptions {
  double temperature = 0;  // 0: greedy (plain argmax, lowest id wins a tie)
  double top_p = 1, min_p = 0, repetition_penalty = 1;
  int64_t top_k = 0;  // 0: all
  uint64_t seed = 0;
  int64_t logprobs = 0;  // how many of the likeliest tokens to tell of at each position
};

// Draws ids; one generator per sequence. logits are changed in place by the penalty.
class Sampler {
 public:
  explicit Sampler(const SampleOptions& opt) : opt_(opt), state_(opt.seed) {}
  int32_t operator()(float* logits, int64_t V, const std::vector<int32_t>& seen);

 private:
  SampleOptions opt_;
  uint64_t state_;
};

struct TokenLogprobs {  // of the model itself: before temperature, penalty and filters
  double chosen = 0;
  std::vector<std::pair<int32_t, double>> top;  // likeliest first
};

struct Generation {
  std::vector<int32_t> ids;             // the new tokens, the stopping one not included
  std::vector<TokenLogprobs> logprobs;  // one per id, when asked for
  bool stopped = false;                 // by an eos id or by on_token; else max_tokens was reached
  double prefill_seconds = 0, decode_seconds = 0;
  int64_t decode_tokens = 0;
};

// Keys and values kept between calls: of a next prompt that begins with the same ids only the rest
// is read.
struct KvSession {
  KvCache cache;
  std::vector<int32_t> ids;  // those that the cache holds
};

// on_token(id) is called for each new token and returns false to stop there. `draft` guesses the
// continuation: while it is right, up to four of its tokens go through the model together. That
// changes the time and nothing else: for so few rows every kernel computes each row as if alone,
// and a wrong guess is taken back out of the cache.
Generation generate(Ctx& ctx, Model& model, const std::vector<int32_t>& prompt, int64_t max_tokens,
                    const std::vector<int32_t>& eos, const SampleOptions& opt,
                    const std::function<bool(int32_t)>& on_token = {},
                    const std::vector<int32_t>& draft = {}, KvSession* session = nullptr);

// One of several sequences that are generated together.
struct Request {
  std::vector<int32_t> prompt;
  int64_t max_tokens;
  SampleOptions sample;
  std::function<bool(int32_t)> on_token = {};  // as of generate()
};

// Up to `most` of them go through the model token by token together, the next as one ends: its
// weights are read once for all. done(i, generation) as each ends. Up to four together get what
// generate() gives them; more are summed in another order.
void generate_together(Ctx& ctx, Model& model, const std::vector<Request>& requests, int64_t most,
                       const std::vector<int32_t>& eos,
                       const std::function<void(size_t, Generation)>& done);

// Logits [n,V] of hidden states [n,H].
Tensor logits_of(Ctx& ctx, const Model& model, const Tensor& hidden);

}  // namespace sutor
