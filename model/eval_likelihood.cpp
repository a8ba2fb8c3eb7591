// Metrics by likelihood: rows (or choices) laid side by side in one forward pass, no attention
// across; sums of -log p over the labelled tokens of each.

#include <algorithm>
#include <cmath>

#include "model/eval.h"

namespace sutor {
namespace {

struct Nll {
  double sum = 0;
  int64_t tokens = 0;
};

// -log p of each example's labelled tokens, `batch` examples at a time.
std::vector<Nll> likelihoods(Ctx& ctx, Model& model, const std::vector<Example>& examples,
                             int64_t batch, const std::function<void(size_t, size_t)>& progress) {
  std::vector<Nll> out(examples.size());
  Trace none;
  for (size_t first = 0; first < examples.size(); first += static_cast<size_t>(batch)) {
    size_t end = std::min(examples.size(), first + static_cast<size_t>(batch));
    std::vector<std::vector<int32_t>> ids, labels;
    for (size_t i = first; i < end; ++i) {
      ids.push_back(examples[i].ids);
      labels.push_back(examples[i].labels);
    }
    Batch b = make_batch(ids, labels);
    Tape tape(ctx, false);
    Tensor nll = empty({b.ids.numel()});
    lm_loss(model.hidden(tape, b, none, nullptr), model.head(), b.targets, 1.0f, nll);
    for (size_t i = first; i < end; ++i)
      for (int32_t t = b.rows[i - first]; t < b.rows[i - first + 1]; ++t) {
        if (b.targets.i32()[t] < 0) continue;
        check(std::isfinite(nll.f32()[t]),
              "the loss of token {} (id {}) of example {} is not finite: are there NaN or Inf "
              "among the model's weights?",
              t - b.rows[i - first] + 2, b.targets.i32()[t], i + 1);
        out[i].sum += nll.f32()[t];
        ++out[i].tokens;
      }
    if (progress) progress(end, examples.size());
  }
  return out;
}

int64_t characters(const std::string& s) {
  return std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

Example labelled(std::vector<int32_t> prompt, const std::vector<int32_t>& rest) {
  Example e{std::move(prompt), {}};
  e.labels.assign(e.ids.size(), -100);
  e.ids.insert(e.ids.end(), rest.begin(), rest.end());
  e.labels.insert(e.labels.end(), rest.begin(), rest.end());
  return e;
}

// lm-evaluation-harness: white space at the prompt's end belongs to the choice, and the tokens are
// those of the joined text.
Example joined(const std::string& prompt, const std::string& choice, const Tokenizer& tok) {
  size_t cut = prompt.find_last_not_of(" \t\r\n\f\v");
  cut = cut == std::string::npos ? 0 : cut + 1;
  std::vector<int32_t> head = tok.encode(prompt.substr(0, cut), true),
                       whole = tok.encode(prompt + " " + choice, true);
  size_t n = std::min(head.size(), whole.size());
  return labelled({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n)},
                  {whole.begin() + static_cast<std::ptrdiff_t>(n), whole.end()});
}

}  // namespace

EvalResult eval_loss(Ctx& ctx, Model& model, const std::vector<Example>& examples,
                     const std::vector<int64_t>& lines, const EvalOptions& opt) {
  std::vector<Nll> nll = likelihoods(ctx, model, examples, opt.batch, opt.progress);
  EvalResult r;
  r.metric = "loss";
  Nll all;
  for (size_t i = 0; i < nll.size(); ++i) {
    EvalRow row;
    row.line = lines[i];
    if (nll[i].tokens > 0) row.score = nll[i].sum / static_cast<double>(nll[i].tokens);
    if (nll[i].tokens == 0) row.note = "no trained token";
    row.more = {{"tokens", nll[i].tokens}};
    r.rows.push_back(std::move(row));
    all.sum += nll[i].sum;
    all.tokens += nll[i].tokens;
  }
  check(all.tokens > 0, "no trained token to evaluate (all labels are -100)");
  r.score = all.sum / static_cast<double>(all.tokens);
  r.more = {{"tokens", all.tokens}, {"perplexity", std::exp(r.score)}};
  return r;
}

EvalResult eval_choices(Ctx& ctx, Model& model, const Tokenizer& tok, const DataSet& data,
                        const ChatTemplate* chat, const EvalOptions& opt) {
  std::vector<Example> examples;
  EvalResult r;
  r.metric = "multiple-choice";
  for (const Row& q : data.rows) {
    EvalRow row;
    row.line = q.line;
    row.prompt = q.prompt;
    std::vector<int32_t> head;
    if (!q.messages.empty()) {
      row.prompt = q.messages.back().content;
      head = chat ? tok.encode(chat->render(q.messages, true, q.more), false)
                  : encode_esft(q, tok).ids;
    }
    for (const std::string& c : q.choices) {
      if (q.messages.empty())
        examples.push_back(joined(q.prompt, c, tok));
      else
        examples.push_back(labelled(head, tok.encode(chat ? c : " " + c, false)));
      check(examples.back().labels.back() >= 0 && examples.back().labels.front() < 0,
            "line {}: the choice \"{}\" adds no token to the prompt, or the prompt has none",
            q.line, c);
    }
    row.expected = q.choices[static_cast<size_t>(q.answer)];
    r.rows.push_back(std::move(row));
  }
  std::vector<Nll> nll = likelihoods(ctx, model, examples, opt.batch, opt.progress);
  double norm = 0, n = static_cast<double>(r.rows.size());
  size_t at = 0;
  for (size_t i = 0; i < r.rows.size(); ++i) {
    const Row& q = data.rows[i];
    EvalRow& row = r.rows[i];
    std::vector<double> per_char;
    for (const std::string& c : q.choices) {
      row.logprobs.push_back(-nll[at++].sum);
      per_char.push_back(row.logprobs.back() / static_cast<double>(characters(c)));
    }
    auto best = [](const std::vector<double>& v) {  // the first of equals
      return std::max_element(v.begin(), v.end()) - v.begin();
    };
    row.answer = q.choices[static_cast<size_t>(best(row.logprobs))];
    row.score = best(row.logprobs) == q.answer;
    bool right = best(per_char) == q.answer;
    row.more = {{"acc_norm", right ? 1 : 0}};
    r.score += row.score / n;
    norm += (right ? 1 : 0) / n;
  }
  r.more = {{"acc_norm", norm}};
  return r;
}

}  // namespace sutor
