#include "model/generate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <list>
#include <numeric>

#include "engine/random.h"

namespace sutor {

Tensor logits_of(Ctx& ctx, const Model& model, const Tensor& hidden) {
  Tensor y = empty({hidden.rows(), model.head().value.dim(0)});
  ctx.k->linear_fwd(ctx, y, hidden, model.head().value, {});
  return y;
}

int32_t Sampler::operator()(float* logits, int64_t V, const std::vector<int32_t>& seen) {
  if (opt_.repetition_penalty != 1) {
    std::vector<int32_t> once(seen);
    std::sort(once.begin(), once.end());
    once.erase(std::unique(once.begin(), once.end()), once.end());
    for (int32_t id : once) {
      float& l = logits[id];
      l = static_cast<float>(l > 0 ? l / opt_.repetition_penalty : l * opt_.repetition_penalty);
    }
  }
  int32_t best = static_cast<int32_t>(std::max_element(logits, logits + V) - logits);
  if (opt_.temperature <= 0) return best;
  std::vector<int32_t> order(V);
  std::iota(order.begin(), order.end(), 0);
  auto by_logit = [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  int64_t keep = opt_.top_k > 0 ? std::min(opt_.top_k, V) : V;
  std::partial_sort(order.begin(), order.begin() + keep, order.end(), by_logit);
  std::vector<double> p(keep);
  double sum = 0;
  for (int64_t i = 0; i < keep; ++i)
    sum += p[i] = std::exp((logits[order[i]] - logits[best]) / opt_.temperature);
  double mass = 0, limit = opt_.top_p * sum;
  int64_t n = 0;
  while (n < keep && (n == 0 || mass < limit) && p[n] >= opt_.min_p * p[0]) mass += p[n++];
  double u = static_cast<double>(next_random(state_) >> 11) * 0x1p-53 * mass;
  for (int64_t i = 0; i < n; ++i)
    if ((u -= p[i]) < 0) return order[i];
  return order[n - 1];
}

namespace {

void check_finite(const float* logits, int64_t V, int32_t id, size_t at) {
  for (int64_t i = 0; i < V; ++i)
    check(std::isfinite(logits[i]),
          "the logits after token {} (id {}) are not finite: are there NaN or Inf among the "
          "model's weights?",
          at, id);
}

std::vector<std::pair<int32_t, double>> top_logprobs(const float* logits, int64_t V, int64_t n,
                                                     double& log_sum) {
  double top = *std::max_element(logits, logits + V), sum = 0;
  for (int64_t i = 0; i < V; ++i) sum += std::exp(logits[i] - top);
  log_sum = top + std::log(sum);
  std::vector<int32_t> order(V);
  std::iota(order.begin(), order.end(), 0);
  n = std::min(n, V);
  std::partial_sort(order.begin(), order.begin() + n, order.end(), [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  std::vector<std::pair<int32_t, double>> out;
  for (int64_t i = 0; i < n; ++i) out.emplace_back(order[i], logits[order[i]] - log_sum);
  return out;
}

using Clock = std::chrono::steady_clock;
double since(Clock::time_point t) {
  return std::chrono::duration<double>(Clock::now() - t).count();
}

void check_ids(const Model& model, const std::vector<int32_t>& ids) {
  for (int32_t id : ids)
    check(id >= 0 && id < model.config.vocab, "token id {}: the vocabulary has {} ids", id,
          model.config.vocab);
}

// What is drawn token by token, from logits that come one way or another.
struct Sequence {
  const SampleOptions& opt;
  Sampler sample;
  const std::vector<int32_t>& eos;
  const std::function<bool(int32_t)>& on_token;
  int64_t max_tokens;
  std::vector<int32_t> seen;  // the prompt and what was drawn
  Generation g;

  bool ends(int32_t id) const { return std::find(eos.begin(), eos.end(), id) != eos.end(); }
  int64_t left() const { return max_tokens - std::ssize(g.ids); }

  // The next token; false where the sequence ends, with it or before it.
  bool draw(float* row, int64_t V) {
    if (left() <= 0) return false;
    check_finite(row, V, seen.back(), seen.size());
    TokenLogprobs told;
    std::vector<float> raw;  // the sampler changes the row in place
    double log_sum = 0;
    if (opt.logprobs > 0) {
      raw.assign(row, row + V);
      told.top = top_logprobs(row, V, opt.logprobs, log_sum);
    }
    const int32_t id = sample(row, V, seen);
    if (ends(id)) {
      g.stopped = true;
      return false;
    }
    g.ids.push_back(id);
    if (opt.logprobs > 0) {
      told.chosen = raw[id] - log_sum;
      g.logprobs.push_back(std::move(told));
    }
    seen.push_back(id);
    if (on_token && !on_token(id)) {
      g.stopped = true;
      return false;
    }
    if (left() == 0) return false;
    ++g.decode_tokens;
    return true;
  }
};

// Room for `capacity` tokens, and what the prompt shares with the cached ids kept: at least its
// last token is to be read again, for its logits. Dynamic RoPE turns every token of a prompt beyond
// the original length by that prompt's length: nothing is kept from or for such a one.
void prepare(const Model& model, KvSession& s, const std::vector<int32_t>& prompt,
             int64_t capacity) {
  auto same = std::mismatch(prompt.begin(), prompt.end(), s.ids.begin(), s.ids.end()).first;
  const RopeConfig& rope = model.config.rope;
  const bool turned = rope.type == RopeType::kDynamic &&
                      std::max(std::ssize(prompt), std::ssize(s.ids)) > rope.original_max_positions;
  const int64_t keep =
      turned ? 0 : std::min<int64_t>(same - prompt.begin(), std::ssize(prompt) - 1);
  if (s.cache.capacity < capacity) {
    KvCache larger = model.make_cache(std::max(capacity, 2 * s.cache.capacity));
    for (size_t i = 0; i < s.cache.layers.size(); ++i)
      for (auto [from, to] : {std::pair(&s.cache.layers[i].k, &larger.layers[i].k),
                              {&s.cache.layers[i].v, &larger.layers[i].v}}) {
        const int64_t rows = from->rows() / s.cache.capacity * keep;
        if (rows > 0) copy_into(to->slice(0, rows), from->slice(0, rows));
      }
    s.cache = std::move(larger);
  }
  s.cache.length = keep;
}

}  // namespace

Generation generate(Ctx& ctx, Model& model, const std::vector<int32_t>& prompt, int64_t max_tokens,
                    const std::vector<int32_t>& eos, const SampleOptions& opt,
                    const std::function<bool(int32_t)>& on_token, const std::vector<int32_t>& draft,
                    KvSession* session) {
  // Rows that still take the dot-product path (engine/cpu/gemm.h), whose sums depend on no other
  // row; keys and values expanded per head (LoRA on kv_b) do so from this many cached tokens on.
  constexpr int64_t kTogether = 4;
  check(!prompt.empty(), "the prompt has no tokens");
  check_ids(model, prompt);
  check_ids(model, draft);
  Sequence seq{opt, Sampler(opt), eos, on_token, max_tokens, prompt, {}};
  Generation& g = seq.g;
  KvSession own;
  KvSession& kept = session != nullptr ? *session : own;
  prepare(model, kept, prompt, std::ssize(prompt) + max_tokens);
  KvCache& cache = kept.cache;
  auto begin = Clock::now();
  const std::vector<int32_t> unread(prompt.begin() + cache.length, prompt.end());
  kept.ids.clear();  // until all of it is read
  Tensor logits = logits_of(ctx, model, model.extend(ctx, cache, unread, 1));
  g.prefill_seconds = since(begin);
  begin = Clock::now();
  std::vector<int32_t> fed{prompt.back()};  // logits row i follows fed[i]
  size_t at = 0;
  bool on_draft = true;
  while (seq.draw(logits.row(static_cast<int64_t>(at)), logits.cols())) {
    const int32_t id = g.ids.back();
    on_draft = on_draft && g.ids.size() <= draft.size() && draft[g.ids.size() - 1] == id;
    if (at + 1 < fed.size() && fed[at + 1] == id) {
      ++at;
      continue;
    }
    cache.length -= static_cast<int64_t>(fed.size() - 1 - at);
    fed = {id};
    at = 0;
    if (on_draft && cache.length >= kTogether)
      for (size_t i = g.ids.size();
           i < draft.size() && !seq.ends(draft[i]) &&
           static_cast<int64_t>(fed.size()) < std::min(seq.left(), kTogether);
           ++i)
        fed.push_back(draft[i]);
    logits = logits_of(ctx, model, model.extend(ctx, cache, fed, static_cast<int64_t>(fed.size())));
  }
  g.decode_seconds = since(begin);
  // Behind fed[at] the cache holds guesses: wrong ones, or drawn just now.
  cache.length -= static_cast<int64_t>(fed.size() - 1 - at);
  kept.ids = std::move(seq.seen);
  kept.ids.resize(static_cast<size_t>(cache.length));
  return std::move(g);
}

void generate_together(Ctx& ctx, Model& model, const std::vector<Request>& requests, int64_t most,
                       const std::vector<int32_t>& eos,
                       const std::function<void(size_t, Generation)>& done) {
  struct Active {
    size_t index;
    Sequence seq;
    KvCache cache;
  };
  for (const Request& r : requests) {
    check(!r.prompt.empty(), "the prompt has no tokens");
    check_ids(model, r.prompt);
  }
  std::list<Active> active;
  for (size_t next = 0; next < requests.size() || !active.empty();) {
    for (; next < requests.size() && std::ssize(active) < most; ++next) {
      const Request& r = requests[next];
      Active a{next,
               {r.sample, Sampler(r.sample), eos, r.on_token, r.max_tokens, r.prompt, {}},
               model.make_cache(std::ssize(r.prompt) + r.max_tokens)};
      const auto begin = Clock::now();
      Tensor logits = logits_of(ctx, model, model.extend(ctx, a.cache, r.prompt, 1));
      a.seq.g.prefill_seconds = since(begin);
      if (a.seq.draw(logits.row(0), logits.cols()))
        active.push_back(std::move(a));
      else
        done(next, std::move(a.seq.g));
    }
    if (active.empty()) continue;
    std::vector<KvCache*> caches;
    std::vector<int32_t> ids;
    for (Active& a : active) {
      caches.push_back(&a.cache);
      ids.push_back(a.seq.g.ids.back());
    }
    const auto begin = Clock::now();
    Tensor logits = logits_of(ctx, model, model.extend_each(ctx, caches, ids));
    const double step = since(begin);
    int64_t row = 0;
    for (auto a = active.begin(); a != active.end(); ++row) {
      a->seq.g.decode_seconds += step;
      if (a->seq.draw(logits.row(row), logits.cols())) {
        ++a;
      } else {
        done(a->index, std::move(a->seq.g));
        a = active.erase(a);
      }
    }
  }
}

}  // namespace sutor
