// sutor generate: text from a prompt, or JSON lines from a file of prompts.
#include <algorithm>
#include <cstdio>
#include <memory>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/data_args.h"
#include "apps/ranks.h"
#include "apps/run_checkpoint.h"
#include "apps/sampling_args.h"
#include "engine/dry_run.h"
#include "io/memory.h"

namespace sutor {
namespace {

void declare(Args& a) {
  declare_model(a);
  declare_ranks(a, false);
  declare_weights(a);
  a.string("prompt", "text to continue");
  a.string("prompts", "rows with {\"prompt\"} or {\"messages\"}: JSON lines of output");
  declare_date(a);
  declare_sampling(a, 128);
  a.integer("n", "answers to a prompt; with seeds --seed, --seed + 1, ...", 1, 1, 1 << 20);
  a.integer("batch",
            "JSON: answers that are generated together, each weight read once for all; up to 4 get "
            "what they would get alone, more are summed in another order",
            1, 1, 1024);
  a.integer("logprobs", "JSON: log-probabilities of each token and of the K likeliest", 0, 0, 1024);
  a.flag("continue",
         "rows whose last message is the assistant's: go on with it, instead of answering anew");
}

struct Prompt {
  std::string text;
  std::vector<int32_t> ids;
};

std::vector<Prompt> read_prompts(const Args& a, const Tokenizer& tok) {
  if (a.given("prompt")) return {{a.str("prompt"), tok.encode(a.str("prompt"))}};
  std::vector<Prompt> out;
  std::optional<ChatTemplate> chat;
  int64_t dropped = 0, continued = 0;
  for (Row& r : read_dataset(a.str("prompts"), false, RowKind::kPrompt).rows) {
    if (r.messages.empty()) {
      out.push_back({r.prompt, tok.encode(r.prompt)});
      continue;
    }
    if (!chat) chat = dated_template(a);
    check(chat.has_value(), "{}:{}: messages, and {} has no chat template", a.str("prompts"),
          r.line, a.str("MODEL"));
    const bool answered = r.messages.back().role == "assistant";
    std::string text;
    try {
      if (answered && a.on("continue")) {
        text = chat->render_continued(r.messages, r.more);
        ++continued;
      } else {
        while (!r.messages.empty() && r.messages.back().role == "assistant") r.messages.pop_back();
        check(!r.messages.empty(), "no message but the assistant's (--continue goes on with it)");
        text = chat->render(r.messages, true, r.more);
        dropped += answered;
      }
    } catch (const Error& e) {
      fail("{}:{}: {}", a.str("prompts"), r.line, e.what());
    }
    std::vector<int32_t> ids = tok.encode(text, false);
    out.push_back({std::move(text), std::move(ids)});
  }
  if (dropped > 0 && !a.on("quiet"))
    note("{}: the last answer of {} rows left out, to be generated (--continue goes on with it)\n",
         a.str("prompts"), dropped);
  a.no_effect_unless(chat.has_value(), "date", "no row has messages");
  a.no_effect_unless(continued > 0, "continue", "no row ends with an assistant's message");
  return out;
}

Json json_of(const std::vector<TokenLogprobs>& logprobs, const std::vector<int32_t>& ids,
             const Tokenizer& tok) {
  auto one = [&](int32_t id, double p) {
    return Json{{"id", id}, {"token", tok.id_to_token(id)}, {"logprob", p}};
  };
  Json out = Json::array();
  for (size_t i = 0; i < ids.size(); ++i) {
    Json j = one(ids[i], logprobs[i].chosen);
    j["top"] = Json::array();
    for (auto [id, p] : logprobs[i].top) j["top"].push_back(one(id, p));
    out.push_back(std::move(j));
  }
  return out;
}

struct Answer {
  const Prompt& prompt;
  int64_t index;  // of the prompt's answers
  StreamDecoder decoder;
  StopAt stop;
  bool stream = false;  // to stdout, as it comes
  std::string text;
  std::optional<Generation> generation;

  Answer(const Prompt& prompt, int64_t index, const Tokenizer& tok,
         const std::vector<std::string>& stops)
      : prompt(prompt), index(index), decoder(tok, true), stop(stops) {}

  bool take(int32_t id) {
    put(stop.push(decoder.push(id)));
    return !stop.found();
  }
  void finish(Generation g) {
    put(stop.push(decoder.finish()));
    put(stop.finish());
    generation = std::move(g);
  }

 private:
  void put(const std::string& piece) {
    text += piece;
    if (!stream) return;
    fmt::print("{}", piece);
    std::fflush(stdout);
  }
};

Json json_of(const Answer& answer, const Tokenizer& tok, bool logprobs) {
  const Generation& g = *answer.generation;
  const auto read = static_cast<double>(answer.prompt.ids.size());
  Json j{{"prompt", answer.prompt.text},
         {"index", answer.index},
         {"text", answer.stop.found() ? answer.text : tok.decode(g.ids, true)},
         {"ids", g.ids},
         {"finish_reason", g.stopped || answer.stop.found() ? "stop" : "length"},
         {"prompt_tokens", answer.prompt.ids.size()},
         {"completion_tokens", g.ids.size()},
         {"prefill_tokens_per_s", read / g.prefill_seconds},
         {"decode_tokens_per_s",
          g.decode_tokens > 0 ? static_cast<double>(g.decode_tokens) / g.decode_seconds : 0.0},
         {"peak_bytes", peak_bytes()}};
  if (logprobs) j["logprobs"] = json_of(g.logprobs, g.ids, tok);
  return j;
}

// Keys and values of `together` sequences of up to `tokens`.
void check_caches_fit(const Model& model, int64_t tokens, int64_t together) {
  double bytes = 0;
  {
    DryRun none;
    for (const LayerCache& l : model.make_cache(tokens).layers)
      bytes += static_cast<double>(l.k.nbytes() + l.v.nbytes());
  }
  bytes *= static_cast<double>(together);
  const auto available = static_cast<double>(available_memory());
  check(available == 0 || bytes <= available,
        "--batch {}: the keys and values of so many sequences of {} tokens take {:.3g} GiB, {:.3g} "
        "are available: lower --batch or --max-tokens",
        together, tokens, bytes / (1 << 30), available / (1 << 30));
}

void run_rank(const Args& a, Ctx ctx, const Ranks& ranks) {
  if (a.given("prompt") == a.given("prompts"))
    throw UsageError("give one of --prompt and --prompts");
  check_sampling(a);
  a.no_effect_unless(a.real("temperature") > 0, "n", "--temperature 0 is greedy");
  bool as_json = a.on("json") || a.given("prompts");
  for (const char* o : {"continue", "date"})
    a.no_effect_unless(a.given("prompts"), o, "only --prompts has messages");
  a.no_effect_unless(as_json, "logprobs", "only JSON output shows them: --json");
  a.no_effect_unless(as_json, "batch",
                     "text is shown as it comes (--json shows answers as they end)");
  auto model = open_model(a);
  share_experts_for_inference(*model, ranks);
  Tokenizer tok = Tokenizer::load(hub_folder(a.str("MODEL")));
  const std::vector<int32_t> eos = end_ids(a, *model, tok);
  SampleOptions opt = sample_options(a);
  opt.logprobs = a.num("logprobs");
  const std::vector<Prompt> prompts = read_prompts(a, tok);
  // As long as the model was made for; a prompt beyond that is an error.
  const int64_t longest = model->config.max_positions;
  int64_t cut = 0;
  for (const Prompt& p : prompts) {
    const int64_t read = static_cast<int64_t>(p.ids.size());
    check(read < longest, "{}: max_position_embeddings is {}, the prompt \"{}...\" has {} tokens",
          model->config.where, longest, p.text.substr(0, 40), read);
    cut += read + a.num("max-tokens") > longest;
  }
  auto room = [&](const Prompt& p) {
    return std::min(a.num("max-tokens"), longest - static_cast<int64_t>(p.ids.size()));
  };
  if (cut > 0 && !a.on("quiet"))
    note(
        "{}: max_position_embeddings is {}: {} of {} prompts have no room for --max-tokens {} and "
        "end there\n",
        model->config.where, longest, cut, prompts.size(), a.num("max-tokens"));
  const int64_t count = std::ssize(prompts) * a.num("n"),
                together = std::min(a.num("batch"), count);
  a.no_effect_unless(count > 1, "batch", "there is one answer to give");
  int64_t tokens = 0, most = 0;
  for (const Prompt& p : prompts) {
    tokens += room(p) * a.num("n");
    most = std::max(most, std::ssize(p.ids) + room(p));
  }
  if (together > 1) check_caches_fit(*model, most, together);
  place_weights(a, *model, tokens / std::max<int64_t>(1, together));
  std::vector<std::unique_ptr<Answer>> answers;
  std::vector<Request> requests;
  for (const Prompt& prompt : prompts)
    for (int64_t i = 0; i < a.num("n"); ++i) {
      Answer& mine = *answers.emplace_back(std::make_unique<Answer>(prompt, i, tok, a.all("stop")));
      mine.stream = !as_json;
      SampleOptions seeded = opt;
      seeded.seed += static_cast<uint64_t>(i);
      requests.push_back(
          {prompt.ids, room(prompt), seeded, [&mine](int32_t id) { return mine.take(id); }});
    }
  size_t printed = 0;  // in the order of the prompts, whichever ends first
  auto done = [&](size_t i, Generation g) {
    answers[i]->finish(std::move(g));
    for (; printed < answers.size() && answers[printed]->generation; ++printed) {
      const Answer& next = *answers[printed];
      if (as_json)
        fmt::print("{}\n", json_of(next, tok, opt.logprobs > 0)
                               .dump(-1, ' ', false, Json::error_handler_t::replace));
      else
        fmt::print("\n");
      answers[printed].reset();
    }
  };
  if (a.num("batch") > 1)
    return generate_together(ctx, *model, requests, a.num("batch"), eos, done);
  for (size_t i = 0; i < requests.size(); ++i) {
    const Request& r = requests[i];
    done(i, generate(ctx, *model, r.prompt, r.max_tokens, eos, r.sample, r.on_token));
  }
}

void run(const Args& a) {
  const Ctx ctx = a.context();
  on_ranks(a, [&](const Ranks& ranks) { run_rank(a, ctx, ranks); });
}

}  // namespace
const Command kGenerate{"generate", "continue a prompt",
                        "sutor generate model/ --prompt 'The cobbler' --max-tokens 32", declare,
                        run};
}  // namespace sutor
