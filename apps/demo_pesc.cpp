// sutor demo --method pesc: the dense sibling of the embedded model made sparse (arXiv 2401.02731)
// and tuned on a mixture of the held-out tasks, beside LoRA alone on the dense model (the paper's
// Camel) with as many trained parameters, the same rows, steps and seeds. Measures each task and
// what is kept of the rest, the experts' load with and without the balance loss, and which experts
// each task takes (the paper's Fig. 4).
#include "apps/demo_pesc.h"

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "apps/demo_run.h"
#include "apps/table.h"
#include "io/file.h"
#include "model/embedded.h"
#include "model/esft.h"
#include "model/report_data.h"
#include "model/toy_language.h"

namespace sutor {
namespace fs = std::filesystem;
namespace {

// Learning rates: the best mean task score of 1e-3, 3e-3 and 1e-2 for either method (seed 100).
// Trained parameters: 8 adapters of 16 and the router in 5 layers with LoRA of rank 8: 399360;
// LoRA of rank 22 alone: 401280, 0.5 % more. Both LoRA are scaled by 2.
struct Method {
  const char* name;
  const char* train;  // train --method; null: the model as it is
  const char *rank, *alpha, *lr;
  bool balanced;
};
constexpr Method kMethods[] = {{"vanilla", nullptr, nullptr, nullptr, nullptr, false},
                               {"lora", "lora", "22", "44", "3e-3", false},
                               {"pesc", "pesc", "8", "16", "3e-3", false},
                               {"pesc-balanced", "pesc", "8", "16", "3e-3", true}};
// The weight of a balance loss that is to be in the log and to change next to nothing.
constexpr const char* kMeasured = "1e-9";
constexpr const char *kExperts = "8", *kTopK = "2", *kWidth = "16";

bool is_pesc(const Method& m) { return m.train != nullptr && m.train == std::string("pesc"); }

class PescDemo {
 public:
  explicit PescDemo(const Args& a)
      : a_(a), run_(a), tasks_(chosen(a, "tasks", toy::heldout_tasks())) {
    std::vector<std::string> names;
    for (const Method& m : kMethods) names.push_back(m.name);
    for (const std::string& name : chosen(a, "methods", names))
      methods_.push_back(*std::find_if(std::begin(kMethods), std::end(kMethods),
                                       [&](const Method& k) { return name == k.name; }));
    auto any = [&](auto what) { return std::any_of(methods_.begin(), methods_.end(), what); };
    sparse_ = any(is_pesc);
    a.no_effect_unless(any([](const Method& m) { return m.balanced; }), "aux-loss",
                       "--methods lacks pesc-balanced");
    for (const char* o : {"quantize", "lr", "steps"})
      a.no_effect_unless(any([](const Method& m) { return m.train != nullptr; }), o,
                         "nothing is trained");
  }

  void prepare() {
    run_.make_folder();
    write_embedded_dense_model(run_ / "dense");
    run_.command({"demo-data", "--out", run_ / "data", "--pretrain-rows", "1", "--eval-rows",
                  std::to_string(a_.num("eval-rows"))},
                 false);
    mix();
    if (sparse_)
      run_.command({"craft", run_ / "dense", "--experts", kExperts, "--top-k", kTopK,
                    "--adapter-dim", kWidth, "--moe-scaling", "1", "--out", run_ / "crafted"});
  }

  void run() {
    for (int64_t s = a_.num("first-seed"); s < a_.num("first-seed") + a_.num("seeds"); ++s)
      for (const Method& m : methods_) measure(m, s);
    Json all{{"rows", Json::array()}};
    for (const Method& m : methods_) all["rows"].push_back(mixture_row(outcomes_, m.name));
    write_file_atomic(run_ / "mixture/results.json", all.dump(2) + "\n");
    std::vector<std::string> dirs{run_ / "mixture"};
    dirs.insert(dirs.end(), runs_.begin(), runs_.end());
    for (const Method& m : methods_)
      if (is_pesc(m))
        for (const std::string& t : tasks_) dirs.push_back(score(m, t));
    run_.report(dirs);
  }

  const DemoRun& done() const { return run_; }
  const std::vector<Outcome>& outcomes() const { return outcomes_; }
  const std::vector<Balance>& balance() const { return balance_; }
  const std::vector<Choice>& choices() const { return choices_; }

  std::vector<std::string> settings() const {
    std::string rates, weight = a_.str("aux-loss");
    for (const Method& m : methods_)
      if (m.train)
        rates += fmt::format("{}{} {}", rates.empty() ? "" : ", ", m.name,
                             a_.given("lr") ? a_.str("lr") : m.lr);
    return {
        fmt::format("The dense sibling (recipes/embedded-dense) and what sutor craft makes of it: "
                    "{} experts, top-{}, adapters of {}, moe_scaling 1",
                    kExperts, kTopK, kWidth),
        fmt::format("{} steps of {} rows of up to {} tokens, the tasks' rows in turn; --method "
                    "pesc's defaults for both: AdamW (0.9, 0.999), no weight decay, clipping at "
                    "0.3, dropout 0.1 of LoRA and adapters; constant learning rate: {}",
                    a_.num("steps"), kDemoBatch, kDemoSeq, rates),
        "PESC: routers, adapters and LoRA of rank 8; lora: rank 22 on the dense model; both scaled "
        "by 2, on the seven projections",
        fmt::format("Balance loss: pesc-balanced {}; pesc {}, which puts it into the log and "
                    "changes next to nothing",
                    weight, kMeasured),
        fmt::format("Frozen weights: {}", a_.str("quantize") == "nf4"
                                              ? "NF4 in training (--quantize nf4)"
                                              : "bf16, not quantised (--quantize none)"),
        fmt::format("{} seeds from {} (order of the rows, start of the LoRA, dropout); ± is the "
                    "standard deviation over seeds",
                    a_.num("seeds"), a_.num("first-seed")),
        fmt::format("Evaluation: greedy, exact match, {} rows never seen in training",
                    a_.num("eval-rows"))};
  }

 private:
  std::string data(const char* side, const std::string& task) const {
    return run_ / (std::string("data/") + side + "/" + task + ".jsonl");
  }
  std::string mixture() const { return run_ / "data/mixture.jsonl"; }
  std::string folder(const Method& m, int64_t seed) const {
    std::string dir = run_ / (std::string("mixture/") + m.name);
    return a_.num("seeds") > 1 && m.train ? dir + fmt::format("-{}", seed) : dir;
  }

  // The tasks' rows in turn, as `paste -d '\n'` does: a packed row has documents of several tasks.
  void mix() {
    std::string line = "paste -d '\\n'", text;
    std::vector<std::istringstream> in;
    for (const std::string& t : tasks_) {
      line += " " + data("train", t);
      in.emplace_back(read_file(data("train", t)));
    }
    run_.show(line + " > " + mixture());
    for (bool more = true; more;) {
      more = false;
      for (std::istringstream& task : in)
        if (std::string row; std::getline(task, row)) text += row + "\n", more = true;
    }
    write_file_atomic(mixture(), text);
  }

  // Trains, evaluates each task and the rest. The vanilla model is the same for every seed.
  void measure(const Method& m, int64_t seed) {
    const bool again = !m.train && seed != a_.num("first-seed");
    const std::string dir = folder(m, seed);
    std::vector<std::string> trained{run_ / "dense"};
    Outcome cost;
    double general = 0;
    if (!again) {
      fs::create_directories(dir);
      if (m.train) trained = train(m, seed, dir, cost);
      general = run_.evaluate(trained, data("eval", "general"), dir + "/eval_general.json");
    }
    for (const std::string& t : tasks_) {
      Outcome o = cost;
      if (again) {
        o = *std::find_if(outcomes_.begin(), outcomes_.end(),
                          [&](const Outcome& k) { return k.method == m.name && k.task == t; });
      } else {
        o.general_score = general;
        o.task_score = run_.evaluate(trained, data("eval", t), dir + "/eval_" + t + ".json");
      }
      o.task = t, o.method = m.name, o.seed = seed;
      outcomes_.push_back(o);
    }
  }

  // Returns the words that name the trained model.
  std::vector<std::string> train(const Method& m, int64_t seed, const std::string& dir,
                                 Outcome& o) {
    const std::string run = dir + "/run", lr = a_.given("lr") ? a_.str("lr") : m.lr;
    const std::string model = run_ / (is_pesc(m) ? "crafted" : "dense");
    std::vector<std::string> words{"train",    model,
                                   "--data",   mixture(),
                                   "--method", m.train,
                                   "--out",    run,
                                   "--steps",  std::to_string(a_.num("steps")),
                                   "--batch",  kDemoBatch,
                                   "--seq",    kDemoSeq,
                                   "--rank",   m.rank,
                                   "--alpha",  m.alpha,
                                   "--lr",     lr,
                                   "--seed",   std::to_string(seed)};
    if (is_pesc(m))
      words.insert(words.end(), {"--aux-loss", m.balanced ? a_.str("aux-loss") : kMeasured});
    else  // as --method pesc has them
      words.insert(words.end(), {"--lora-dropout", "0.1", "--weight-decay", "0", "--beta2", "0.999",
                                 "--clip", "0.3"});
    if (a_.str("quantize") != "none") words.insert(words.end(), {"--quantize", a_.str("quantize")});
    run_.train(words, run, run + "/adapter", o);
    runs_.push_back(run);
    if (is_pesc(m)) {
      const TrainLog log = *read_report_run(run).log;
      balance_.push_back({m.name, seed, log.load_cv, log.aux});
    }
    return {model, "--adapter", run + "/adapter"};
  }

  // Which experts the task takes, of the first seed's run.
  std::string score(const Method& m, const std::string& task) {
    const std::string dir = run_ / fmt::format("scores/{}/{}", m.name, task);
    fs::create_directories(dir);
    run_.command({"score", run_ / "crafted", "--adapter",
                  folder(m, a_.num("first-seed")) + "/run/adapter", "--data", data("eval", task),
                  "--tokens", "8192", "--out", dir + "/scores.json"});
    choices_.push_back({m.name, task, read_scores(dir + "/scores.json").token});
    return dir;
  }

  const Args& a_;
  DemoRun run_;
  std::vector<std::string> tasks_, runs_;
  std::vector<Method> methods_;
  bool sparse_ = false;
  std::vector<Outcome> outcomes_;
  std::vector<Balance> balance_;
  std::vector<Choice> choices_;
};

}  // namespace

void declare_demo_pesc(Args& a) {
  a.choice("quantize", "the frozen weights of pesc's runs, in training", "none", {"none", "nf4"});
  a.real("aux-loss", "weight of the balance loss of pesc-balanced", 0.01, 1e-12, 10);
}

void demo_pesc(const Args& a) {
  PescDemo demo(a);
  demo.prepare();
  demo.run();
  const std::vector<Outcome>& all = demo.outcomes();
  if (a.given("markdown"))
    write_file_atomic(a.str("markdown"),
                      "# PESC on the dense sibling of the embedded model\n\n" +
                          pesc_markdown(all, demo.balance(), demo.choices(), demo.settings()));
  if (!demo.done().show_outcomes(all)) return;
  Table load({"method", "seed", "steps", "load_cv", "balance loss"});
  for (const Balance& b : demo.balance())
    for (const Phase& p : phases(b))
      load.row({b.method, std::to_string(b.seed), fmt::format("{} to {}", p.from, p.to),
                fmt::format("{:.3f}", p.load_cv), fmt::format("{:.3f}", p.aux)});
  if (!demo.balance().empty()) fmt::print("{}\n", load.text());
  fmt::print("report: {}/report.html\n", a.str("out"));
}

}  // namespace sutor
