// sutor generate: text from a prompt, or JSON lines from a file of prompts.
#include <cstdio>

#include "apps/commands.h"
#include "apps/common.h"
#include "io/dataset.h"
#include "io/tokenizer.h"
#include "model/generate.h"

namespace sutor {
namespace {

void declare(Args& a) {
  declare_model(a);
  a.string("prompt", "text to continue");
  a.string("prompts", "JSON lines with {\"prompt\"}: one JSON line of output each");
  a.integer("max-tokens", "new tokens at the most", 128, 1, 1 << 20);
  a.real("temperature", "0: greedy", 0, 0, 100);
  a.real("top-p", "nucleus", 1, 0, 1);
  a.integer("top-k", "0: all", 0, 0, 1 << 20);
  a.real("min-p", "of the best token's probability", 0, 0, 1);
  a.real("repetition-penalty", "1: none", 1, 0.01, 100);
  a.flag("ignore-eos", "go on to --max-tokens");
}

void run(const Args& a) {
  if (a.given("prompt") == a.given("prompts"))
    throw UsageError("give one of --prompt and --prompts");
  for (const char* o : {"top-p", "top-k", "min-p", "seed"})
    a.no_effect_unless(a.real("temperature") > 0, o, "--temperature 0 is greedy");
  Ctx ctx = a.context();
  auto model = open_model(a);
  Tokenizer tok = Tokenizer::load(a.str("MODEL"));
  std::vector<int32_t> eos = model->config.eos;
  if (tok.eos() >= 0) eos.push_back(tok.eos());
  if (a.on("ignore-eos")) eos.clear();
  SampleOptions opt{a.real("temperature"), a.real("top-p"),
                    a.real("min-p"),       a.real("repetition-penalty"),
                    a.num("top-k"),        static_cast<uint64_t>(a.num("seed"))};
  std::vector<std::string> prompts;
  if (a.given("prompt")) {
    prompts.push_back(a.str("prompt"));
  } else {
    DataSet d = read_dataset(a.str("prompts"), false);
    for (const Row& r : d.rows) prompts.push_back(r.prompt.empty() ? r.text : r.prompt);
  }
  for (const std::string& prompt : prompts) {
    bool stream = !a.on("json") && a.given("prompt");
    StreamDecoder decoder(tok, true);
    std::vector<int32_t> ids = tok.encode(prompt);
    Generation g = generate(ctx, *model, ids, a.num("max-tokens"), eos, opt, [&](int32_t id) {
      if (stream) {
        fmt::print("{}", decoder.push(id));
        std::fflush(stdout);
      }
      return true;
    });
    if (stream) {
      fmt::print("{}\n", decoder.finish());
      continue;
    }
    Json j{{"prompt", prompt},
           {"text", tok.decode(g.ids, true)},
           {"ids", g.ids},
           {"finish_reason", g.stopped ? "stop" : "length"},
           {"prompt_tokens", ids.size()},
           {"completion_tokens", g.ids.size()},
           {"prefill_tokens_per_s", static_cast<double>(ids.size()) / g.prefill_seconds},
           {"decode_tokens_per_s",
            g.decode_tokens > 0 ? static_cast<double>(g.decode_tokens) / g.decode_seconds : 0.0},
           {"peak_bytes", peak_bytes()}};
    fmt::print("{}\n", j.dump(-1, ' ', false,
                              Json::error_handler_t::replace));  // a prompt may hold broken UTF-8
  }
}

}  // namespace
const Command kGenerate{"generate", "continue a prompt",
                        "sutor generate model/ --prompt 'User: hi\\n\\nAssistant:' --max-tokens 32",
                        declare, run};
}  // namespace sutor
