// sutor demo: the main job on the embedded model. Scores a held-out task, selects experts, trains
// them and, for comparison, everything, LoRA factors and random experts; measures the task and what
// is kept of the rest; writes a report. All of it by this binary's own commands, which are shown.
#include <algorithm>
#include <filesystem>
#include <sstream>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/demo_results.h"
#include "apps/self_run.h"
#include "apps/table.h"
#include "engine/parallel.h"
#include "io/file.h"
#include "model/embedded.h"
#include "model/esft.h"
#include "model/toy_language.h"

namespace sutor {
namespace fs = std::filesystem;
namespace {

// Learning rates: the best task score on intent and law, seed 100, 120 steps, among 3e-4, 1e-3 and
// 3e-3, as the paper searched its own for each method. What a lower one keeps of the rest:
// docs/results-full-low-lr.md, docs/results-lora-low-lr.md.
struct Method {
  const char* name;
  const char* train;  // train --method; null: the model as it is
  const char* score;  // select --score; null: not by experts
  bool random;
  const char* lr;
};
constexpr Method kMethods[] = {
    {"vanilla", nullptr, nullptr, false, nullptr}, {"full", "full", nullptr, false, "1e-3"},
    {"lora", "lora", nullptr, false, "3e-3"},      {"esft-token", "esft", "token", false, "3e-3"},
    {"esft-gate", "esft", "gate", false, "3e-3"},  {"random", "esft", "token", true, "3e-3"}};

constexpr const char *kBatch = "4", *kSeq = "256";

std::string allowed_methods() {
  std::string s;
  for (const Method& m : kMethods) s += s.empty() ? m.name : std::string(",") + m.name;
  return s;
}

std::vector<std::string> split_commas(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string word; std::getline(in, word, ',');) out.push_back(word);
  return out;
}

void declare(Args& a) {
  a.string("out", "folder for everything that is made", "sutor-demo");
  a.string("tasks", "held-out tasks, by commas; or all", "law");
  a.string("methods", "by commas", allowed_methods());
  a.integer("seeds", "runs of each method with seeds 1, 2, ...", 1, 1, 1000);
  a.integer("first-seed", "of those", 1, 0, 1 << 30);
  a.integer("steps", "optimiser steps of each run", 120, 1, 1 << 20);
  a.real("lr", "one learning rate for all methods (default: each method's own)", 0, 0, 1);
  a.integer("eval-rows", "evaluation rows of the task, and of the pre-training tasks together", 200,
            8, 1 << 20);
  a.string("markdown", "also write the tables to this file");
  a.integer("threads", "default: physical cores", 0, 0, 4096);
  a.flag("quiet", "do not show the commands");
  a.flag("json", "the outcomes as JSON");
}

class Demo {
 public:
  explicit Demo(const Args& a) : a_(a), out_(a.str("out")) {
    tasks_ = a.str("tasks") == "all" ? toy::heldout_tasks() : split_commas(a.str("tasks"));
    const std::vector<std::string> known = toy::heldout_tasks();
    for (const std::string& t : tasks_)
      check(std::find(known.begin(), known.end(), t) != known.end(),
            "--tasks: '{}' is no held-out task; allowed: {}, all", t, fmt::join(known, ", "));
    for (const std::string& name : split_commas(a.str("methods"))) {
      auto m = std::find_if(std::begin(kMethods), std::end(kMethods),
                            [&](const Method& k) { return name == k.name; });
      check(m != std::end(kMethods), "--methods: '{}' is unknown; allowed: {}", name,
            allowed_methods());
      methods_.push_back(*m);
    }
    check(!tasks_.empty() && !methods_.empty(), "--tasks and --methods must name one or more");
    check(!fs::exists(out_) || fs::is_empty(out_),
          "{}: is not empty; name another folder with --out", out_);
  }

  void prepare() {
    std::error_code ec;
    fs::create_directories(out_, ec);
    check(!ec, "{}: cannot be created: {}", out_, ec.message());
    write_embedded_model(out_ + "/model");
    const std::string rows = std::to_string(a_.num("eval-rows"));
    command({"demo-data", "--out", out_ + "/data", "--pretrain-rows", "1", "--eval-rows", rows});
    // Every task is scored, whatever is trained: the report compares their experts (Fig. 3).
    for (const std::string& t : toy::heldout_tasks()) {
      fs::create_directories(out_ + "/scores/" + t);
      command({"score", model(), "--data", data("train", t), "--tokens", "8192", "--out",
               out_ + "/scores/" + t + "/scores.json"});
    }
  }

  void run() {
    for (const std::string& t : tasks_) {
      for (int64_t s = a_.num("first-seed"); s < a_.num("first-seed") + a_.num("seeds"); ++s)
        for (const Method& m : methods_) outcomes_.push_back(measure(t, m, s));
      write_file_atomic(out_ + "/" + t + "/results.json", result_rows(outcomes_, t).dump(2) + "\n");
    }
    std::vector<std::string> words{"report"};
    for (const std::string& t : tasks_) words.push_back(out_ + "/" + t);
    for (const std::string& t : toy::heldout_tasks()) words.push_back(out_ + "/scores/" + t);
    for (const std::string& r : runs_) words.push_back(r);
    words.insert(words.end(), {"--out", out_ + "/report.html"});
    command(words, false);
  }

  const std::vector<Outcome>& outcomes() const { return outcomes_; }
  const std::vector<Method>& methods() const { return methods_; }

 private:
  std::string model() const { return out_ + "/model"; }
  std::string data(const char* side, const std::string& task) const {
    return out_ + "/data/" + side + "/" + task + ".jsonl";
  }

  double command(std::vector<std::string> words, bool computes = true) {
    if (computes && words[0] != "demo-data" && words[0] != "select") {
      if (a_.given("threads"))
        words.insert(words.end(), {"--threads", std::to_string(a_.num("threads"))});
      words.insert(words.end(), {"--dtype", "bf16"});  // everywhere: adapters of the same size
    }
    if (!a_.on("quiet"))
      fmt::print(stderr, "[{:5.1f} s] {}\n", watch_.seconds(), shell_line(words));
    double seconds = 0;
    run_self(words, out_ + "/commands.log", &seconds);
    return seconds;
  }

  // The vanilla model does not depend on the seed: measured once a task.
  Outcome measure(const std::string& task, const Method& m, int64_t seed) {
    Outcome o{task, m.name, seed};
    if (!m.train)
      for (const Outcome& known : outcomes_)
        if (known.task == task && known.method == o.method) {
          o = known;
          o.seed = seed;
          return o;
        }
    std::string dir = fmt::format("{}/{}/{}", out_, task, m.name);
    if (a_.num("seeds") > 1 && m.train) dir += fmt::format("-{}", seed);
    fs::create_directories(dir);
    std::vector<std::string> trained{model()};
    if (m.train) trained = train(task, m, seed, dir, o);
    o.task_score = evaluate(trained, data("eval", task), dir + "/eval_task.json");
    o.general_score = evaluate(trained, data("eval", "general"), dir + "/eval_general.json");
    return o;
  }

  // Returns the words that name the trained model.
  std::vector<std::string> train(const std::string& task, const Method& m, int64_t seed,
                                 const std::string& dir, Outcome& o) {
    const std::string run = dir + "/run", lr = a_.given("lr") ? a_.str("lr") : m.lr;
    std::vector<std::string> words{"train",      model(),
                                   "--data",     data("train", task),
                                   "--method",   m.train,
                                   "--out",      run,
                                   "--steps",    std::to_string(a_.num("steps")),
                                   "--batch",    kBatch,
                                   "--seq",      kSeq,
                                   "--lr",       lr,
                                   "--seed",     std::to_string(seed),
                                   "--aux-loss", "0"};
    if (m.score) {
      const std::string config = dir + "/expert_cfg.json";
      std::vector<std::string> select{
          "select", out_ + "/scores/" + task + "/scores.json", "--score", m.score, "--out", config};
      if (m.random) select.insert(select.end(), {"--random", std::to_string(seed)});
      command(select);
      words.insert(words.end(), {"--experts", config});
      ExpertConfig c = read_expert_config(config);
      for (const auto& [layer, ids] : c.experts)
        o.experts += static_cast<double>(ids.size()) / static_cast<double>(c.experts.size());
    }
    o.seconds = command(words);
    runs_.push_back(run);
    read_log(run + "/log.jsonl", o);
    bool full = m.train == std::string("full");
    std::string result = run + (full ? "/model" : "/adapter");
    for (const auto& file : fs::directory_iterator(result))
      if (file.path().extension() == ".safetensors")
        o.stored_bytes += static_cast<double>(file.file_size());
    if (full) return {result};
    return {model(), "--adapter", result};
  }

  static void read_log(const std::string& file, Outcome& o) {
    std::istringstream in(read_file(file));
    std::vector<double> speed;
    for (std::string line; std::getline(in, line);) {
      Json j = parse_json(line, file);
      if (j.contains("trainable_parameters"))
        o.trainable = get<double>(j, "trainable_parameters", file);
      if (!j.contains("step")) continue;
      speed.push_back(get<double>(j, "tokens_per_s", file));
      o.peak_bytes = get<double>(j, "peak_bytes", file);
    }
    check(!speed.empty(), "{}: has no step", file);
    std::nth_element(speed.begin(), speed.begin() + static_cast<int64_t>(speed.size() / 2),
                     speed.end());
    o.tokens_per_s = speed[speed.size() / 2];
  }

  double evaluate(std::vector<std::string> words, const std::string& rows, const std::string& to) {
    words.insert(words.begin(), "eval");
    words.insert(words.end(),
                 {"--data", rows, "--metric", "exact", "--max-tokens", "64", "--out", to});
    command(words);
    return get<double>(read_json_file(to), "score", to);
  }

  const Args& a_;
  std::string out_;
  std::vector<std::string> tasks_, runs_;
  std::vector<Method> methods_;
  std::vector<Outcome> outcomes_;
  Stopwatch watch_;
};

std::vector<std::string> settings(const Args& a, const std::vector<Method>& methods) {
  std::string rates;
  for (const Method& m : methods)
    if (m.train)
      rates += fmt::format("{}{} {}", rates.empty() ? "" : ", ", m.name,
                           a.given("lr") ? a.str("lr") : m.lr);
  return {
      fmt::format("{} steps of {} rows of up to {} tokens, AdamW (0.9, 0.95), weight decay 0.1, "
                  "clipping at 1, constant learning rate: {}",
                  a.num("steps"), kBatch, kSeq, rates),
      "ESFT-Token p = 0.2, ESFT-Gate p = 0.1 from 8192 tokens; random: as many experts per layer "
      "as ESFT-Token; LoRA: rank 8, alpha 16 on every linear but embeddings, head and router",
      fmt::format("{} seeds from {} (order of the rows, LoRA's start, the random experts); ± is "
                  "the standard deviation over seeds",
                  a.num("seeds"), a.num("first-seed")),
      fmt::format("Evaluation: greedy, exact match, {} rows never seen in training",
                  a.num("eval-rows"))};
}

Json to_json(const Outcome& o) {
  return {{"task", o.task},
          {"method", o.method},
          {"seed", o.seed},
          {"task_score", o.task_score},
          {"general_score", o.general_score},
          {"trainable", o.trainable},
          {"experts_per_layer", o.experts},
          {"stored_bytes", o.stored_bytes},
          {"tokens_per_s", o.tokens_per_s},
          {"seconds", o.seconds},
          {"peak_bytes", o.peak_bytes}};
}

void run(const Args& a) {
  Demo demo(a);
  demo.prepare();
  demo.run();
  const std::vector<Outcome>& all = demo.outcomes();
  if (a.given("markdown"))
    write_file_atomic(a.str("markdown"), "# ESFT on the embedded model\n\n" +
                                             results_markdown(all, settings(a, demo.methods())));
  Json j = Json::array();
  for (const Outcome& o : all) j.push_back(to_json(o));
  write_file_atomic(a.str("out") + "/outcomes.json", j.dump(2) + "\n");
  if (a.on("json")) return print_json(j);
  Table table({"task", "method", "task %", "general %", "trainable", "stored MB", "tokens/s"});
  for (const Outcome& o : all)
    table.row({o.task, o.method, fmt::format("{:.1f}", 100 * o.task_score),
               fmt::format("{:.1f}", 100 * o.general_score),
               o.trainable > 0 ? fmt::format("{:.0f}", o.trainable) : "-",
               o.trainable > 0 ? fmt::format("{:.2f}", o.stored_bytes * 1e-6) : "-",
               o.trainable > 0 ? fmt::format("{:.0f}", o.tokens_per_s) : "-"});
  fmt::print("{}\nreport: {}/report.html\n", table.text(), a.str("out"));
}

}  // namespace
const Command kDemo{"demo", "the main job on the embedded model, before and after",
                    "sutor demo --out sutor-demo", declare, run};
}  // namespace sutor
