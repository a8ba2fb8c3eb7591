// sutor eval: how well a model, with its adapters, does a task.
#include <unistd.h>

#include <cstdio>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/data_args.h"
#include "apps/ranks.h"
#include "apps/run_checkpoint.h"
#include "apps/table.h"
#include "io/chat_client.h"
#include "io/file.h"
#include "model/eval_code.h"
#include "model/eval_judge.h"

namespace sutor {
namespace {

void declare(Args& a) {
  declare_model(a);
  declare_ranks(a, false);
  declare_data(a);
  declare_weights(a);
  a.choice("metric", "what is measured", "loss",
           {"loss", "exact", "json", "multiple-choice", "pass@1", "judge"});
  a.integer("max-tokens", "generated per row at the most", 128, 1, 1 << 20);
  a.integer("batch", "rows (choices) in one forward pass", 8, 1, 1 << 20);
  a.string("out", "JSON file with per-row results");
  a.flag("allow-code-execution", "pass@1: run the programs that the model writes");
  a.flag("allow-network", "pass@1: run them even where they can't be cut off from the network");
  a.real("timeout", "pass@1: seconds per program", 10, 0.1, 3600);
  a.string("judge-url", "judge: OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1");
  a.string("judge-model", "judge: its model");
  a.string("judge-key-file", "judge: file with its key (or the variable SUTOR_JUDGE_KEY)");
  a.string("judge-prompt", "judge: file with {prompt}, {prediction} and {reference}");
}

bool generates(const std::string& metric) {
  return metric != "loss" && metric != "multiple-choice";
}

Judge judge_of(const Args& a) {
  ChatEndpoint e;
  e.url = a.required("judge-url");
  e.model = a.required("judge-model");
  if (const char* key = std::getenv("SUTOR_JUDGE_KEY")) e.key = key;
  if (a.given("judge-key-file")) e.key = stripped(read_file(a.str("judge-key-file"), 1 << 16));
  if (!a.on("quiet"))
    e.on_retry = [url = e.url, all = e.attempts](const std::string& problem, int attempt,
                                                 double pause) {
      note("endpoint {}: {}; attempt {} of {} in {:g} s\n", url, problem, attempt, all, pause);
    };
  return [e](const std::string& prompt) {
    return chat_completion(e, {{"user", prompt, false}}, 512);
  };
}

EvalResult measure(const Args& a, const EvalOptions& opt, Ctx ctx, const Ranks& ranks) {
  const std::string &file = a.required("data"), &metric = a.str("metric");
  if (metric == "pass@1" && !a.on("allow-code-execution"))
    throw UsageError(
        "--metric pass@1 runs programs that the model writes: say --allow-code-execution");
  Judge judge = metric == "judge" ? judge_of(a) : Judge{};
  std::string rubric = a.given("judge-prompt") ? read_file(a.str("judge-prompt"), 1 << 20) : "";
  if (metric == "pass@1") find_python();
  auto model = open_model(a);
  share_experts_for_inference(*model, ranks);
  Tokenizer tok = Tokenizer::load(hub_folder(a.str("MODEL")));
  DataSet data = load_rows(a, file,
                           metric == "multiple-choice" ? RowKind::kQuestion
                           : metric == "pass@1"        ? RowKind::kProgram
                                                       : RowKind::kText);
  const int64_t n = std::ssize(data.rows);
  place_weights(a, *model, generates(metric) ? n * a.num("max-tokens") : n / a.num("batch") + 1);
  auto templ = chat_template(a, data, tok);
  const ChatTemplate* chat = templ ? &*templ : nullptr;
  if (metric == "loss") {
    std::vector<int64_t> lines;
    for (const Row& r : data.rows) lines.push_back(r.line);
    return eval_loss(ctx, *model, encode_rows(data, file, tok, chat), lines, opt);
  }
  if (metric == "multiple-choice") return eval_choices(ctx, *model, tok, data, chat, opt);
  if (metric == "pass@1") {
    SandboxLimits limits;
    limits.seconds = a.real("timeout");
    limits.network = a.on("allow-network");
    return eval_programs(ctx, *model, tok, data, opt, limits);
  }
  int64_t skipped = 0;
  std::vector<EvalTask> tasks =
      eval_tasks(data, file, tok, chat, a.on("skip-bad-rows") ? &skipped : nullptr);
  if (skipped > 0) note("{}: {} rows without question and answer skipped\n", file, skipped);
  if (metric == "judge") return eval_judge(ctx, *model, tok, tasks, rubric, judge, opt);
  if (metric == "exact") return eval_exact(ctx, *model, tok, tasks, opt);
  return eval_json(ctx, *model, tok, tasks, file, opt);
}

void run_rank(const Args& a, Ctx ctx, const Ranks& ranks) {
  const std::string& metric = a.str("metric");
  if (!ranks.alone() && (metric == "pass@1" || metric == "judge"))
    throw UsageError("--metric " + metric + " runs on one rank: each would run programs or ask");
  a.no_effect_unless(generates(metric), "max-tokens", "--metric " + metric + " generates nothing");
  a.no_effect_unless(!generates(metric), "batch",
                     "--metric " + metric + " answers rows one by one");
  for (const char* o : {"allow-code-execution", "allow-network", "timeout"})
    a.no_effect_unless(metric == "pass@1", o, "only --metric pass@1 runs programs");
  for (const char* o : {"judge-url", "judge-model", "judge-key-file", "judge-prompt"})
    a.no_effect_unless(metric == "judge", o, "only --metric judge asks one");
  bool bar = !a.on("quiet") && isatty(2) != 0;
  EvalOptions opt{a.num("max-tokens"), a.num("batch"), [bar](size_t done, size_t all) {
                    if (bar) note("\r{}/{}{}", done, all, done == all ? "\n" : "");
                  }};
  if (a.given("out")) {
    check_not_an_input(a.str("out"), {a.str("data")});
    check_can_write(a.str("out"));
  }
  Stopwatch watch;
  EvalResult r = measure(a, opt, ctx, ranks);
  if (!ranks.lead()) return;
  Json j = to_json(r), rows = std::move(j["rows"]);
  j.erase("rows");
  j["model"] = a.str("MODEL");
  j["adapters"] = a.all("adapter");
  j["data"] = a.str("data");
  j["seconds"] = watch.seconds();
  j["peak_bytes"] = peak_bytes();
  j["rows"] = std::move(rows);
  std::string text = j.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  if (a.given("out")) write_file_atomic(a.str("out"), text);
  if (a.on("json")) {
    fmt::print("{}", text);
    return;
  }
  Table t({"metric", r.metric});
  t.row({"score", fmt::format("{:.4f}", r.score)});
  for (const auto& [key, value] : r.more.items()) {
    if (value.is_object()) continue;  // F1 of each field: in the JSON
    t.row(
        {key, value.is_number_float() ? fmt::format("{:.4f}", value.get<double>()) : value.dump()});
  }
  t.row({"rows", std::to_string(r.rows.size())});
  t.row({"seconds", fmt::format("{:.1f}", watch.seconds())});
  fmt::print("{}", t.text());
}

void run(const Args& a) {
  const Ctx ctx = a.context();
  on_ranks(a, [&](const Ranks& ranks) { run_rank(a, ctx, ranks); });
}

}  // namespace
const Command kEval{"eval",
                    "scores of a task: loss, exact answers, JSON, choices, programs, a judge",
                    "sutor eval model/ --adapter run/adapter --data test.jsonl --metric exact "
                    "--max-tokens 64 --out eval.json",
                    declare, run};
}  // namespace sutor
