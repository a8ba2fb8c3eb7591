// sutor train: ESFT, LoRA, PESC or full fine-tuning; the difference is the list of what trains.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <sstream>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/data_args.h"
#include "apps/fits.h"
#include "apps/method_args.h"
#include "apps/ranks.h"
#include "apps/run_checkpoint.h"
#include "apps/run_folder.h"
#include "apps/run_record.h"
#include "engine/grad_sum.h"
#include "io/file.h"
#include "model/checkpoint.h"
#include "model/placement.h"
#include "model/run_state.h"

namespace sutor {
namespace fs = std::filesystem;
namespace {

volatile std::sig_atomic_t stop_asked = 0;  // by this signal

// The first signal ends the run after its step, with a checkpoint; a second SIGINT or SIGTERM ends
// it at once.
void ask_to_stop(int sig) {
  if (stop_asked != 0 && sig != SIGUSR1) {
    std::signal(sig, SIG_DFL);
    std::raise(sig);
  }
  if (stop_asked == 0 && sig == SIGINT && isatty(2) != 0) {
    constexpr char kSay[] = "\nfinishing this step, then a checkpoint; again to stop at once\n";
    (void)!write(2, kSay, sizeof kSay - 1);
  }
  stop_asked = sig;
}

void declare(Args& a) {
  declare_model(a);
  declare_data(a, true);
  declare_method(a);
  a.string("out", "run folder");
  a.choice("optimizer", "adamw8bit: moments in 8 bits, of tensors with 4096 elements and more",
           "adamw", {"adamw", "adamw8bit"});
  a.integer("steps", "optimiser steps", 100, 1, 1 << 30);
  a.integer("batch", "rows per micro-batch", 1, 1, 1 << 20);
  a.integer("grad-accum", "micro-batches per step", 1, 1, 1 << 20);
  a.integer("seq", "tokens per row", 4096, 2, 1 << 20);
  a.real("lr", "peak learning rate (pesc: 2e-4)", 1e-5, 0, 1e3);
  default_by_method(a, "lr", "1e-05", "0.0002");
  a.choice("schedule", "of the learning rate after warm-up", "constant",
           {"constant", "linear", "cosine"});
  a.integer("warmup", "steps of linear warm-up; step s of them has s/N of --lr, the first 1/N", 0,
            0, 1 << 30);
  a.real("weight-decay", "decoupled, on matrices (pesc: 0)", 0.1, 0, 10);
  default_by_method(a, "weight-decay", "0.1", "0");
  a.real("beta1", "AdamW", 0.9, 0, 0.99999);
  a.real("beta2", "AdamW (pesc: 0.999)", 0.95, 0, 0.99999);
  default_by_method(a, "beta2", "0.95", "0.999");
  a.real("clip", "global gradient norm; 0: none (pesc: 0.3)", 1.0, 0, 1e9);
  default_by_method(a, "clip", "1", "0.3");
  a.integer("save-every", "checkpoint every N steps; 0: only at a signal", 0, 0, 1 << 30);
  a.real("save-minutes", "checkpoint when so many have passed since the last; 0: none", 0, 0, 1e6);
  a.integer("keep-checkpoints", "remove all but the newest N; 0: keep all", 0, 0, 1 << 30);
  a.flag("keep-best",
         "and keep the one with the lowest eval_loss, of those saved at an evaluation");
  a.flag("resume", "go on from the newest checkpoint in --out");
  a.string("eval-data", "rows for eval_loss");
  a.integer("eval-every", "evaluate every N steps (and at the end)", 100, 1, 1 << 30);
  a.choice("packing", "rows of whole documents, one row per example, or the ESFT authors' stream",
           "documents", {"documents", "none", "esft-compat"});
  a.derive("packing", [](const Args& x) {  // the PESC authors pack nothing
    return x.str("format") == "pesc-compat" ? "none" : "documents";
  });
  a.choice("order", "of rows", "shuffle", {"shuffle", "file"});
  default_format(a);
  declare_balance_loss(a);
  a.flag("recompute", "keep only block inputs for backward: less memory, same bits");
  a.real(
      "max-memory",
      "GiB the process may take at its peak, the files' weights included: recomputes blocks where "
      "that is needed, or says what would help",
      0, 1e-3, 1e6);
  a.no_default("max-memory");
  declare_weights(a);
  declare_ranks(a, true);
}

TrainOptions train_options(const Args& a) {
  TrainOptions o;
  o.steps = a.num("steps");
  o.batch = a.num("batch");
  o.grad_accum = a.num("grad-accum");
  o.lr = a.real("lr");
  o.warmup = a.num("warmup");
  o.clip = a.real("clip");
  o.aux_alpha = a.real("aux-loss");
  o.schedule = a.str("schedule") == "linear"   ? Schedule::kLinear
               : a.str("schedule") == "cosine" ? Schedule::kCosine
                                               : Schedule::kConstant;
  o.adamw.weight_decay = a.real("weight-decay");
  o.adamw.beta1 = a.real("beta1");
  o.adamw.beta2 = a.real("beta2");
  o.mean = mean_of_means(a) ? LossMean::kMeans : LossMean::kTokens;
  o.shuffle = a.str("order") == "shuffle";
  o.seed = static_cast<uint64_t>(a.num("seed"));
  check(o.warmup <= o.steps, "--warmup {} is longer than --steps {}", o.warmup, o.steps);
  return o;
}

// Tokens of the longest document in any row: the most positions that attention sees.
int64_t longest_document(const std::vector<TrainRow>& rows) {
  int64_t longest = 0;
  for (const TrainRow& r : rows)
    for (size_t i = 0; i < r.ids.size(); ++i)
      longest = std::max(longest, static_cast<int64_t>(i) + 1 - (r.start.empty() ? 0 : r.start[i]));
  return longest;
}

// What a step writes to log.jsonl.
Json log_line(const StepLog& s, const TrainOptions& opt, const Ranks& ranks) {
  auto digits = [](double v, int n) { return Json::parse(fmt::format("{:.{}g}", v, n)); };
  Json j{{"step", s.step},
         {"loss", digits(s.loss, 9)},
         {"tokens", s.tokens},
         {"trained_tokens", s.trained_tokens},
         {"tokens_per_s", static_cast<double>(s.tokens) / s.seconds},
         {"grad_norm", s.grad_norm},
         {"lr", s.lr},
         {"peak_bytes", peak_bytes()},
         {"seconds", s.seconds}};
  if (opt.aux_alpha != 0) j["aux_loss"] = digits(s.aux, 9);
  for (const auto& [layer, tokens] : s.load) j["load_cv"].push_back(digits(load_cv(tokens), 4));
  if (ranks.alone()) return j;
  j["comm_bytes"] = s.comm_bytes;  // that rank 0 sent
  j["gradient_bytes"] = s.gradient_bytes;
  j["comm_seconds"] = s.comm_seconds;
  return j;
}

// The checkpoint being written beside the next step, and what became of it.
class Saves {
 public:
  Saves(const Args& a, Model& model, const Ranks& ranks, const std::string& identity)
      : a_(a), model_(model), ranks_(ranks), identity_(identity), out_(a.str("out")) {}

  void begin(int64_t step, std::optional<double> eval_loss) {
    finish();
    Json more = Json::object();
    if (eval_loss && std::isfinite(*eval_loss)) more["eval_loss"] = *eval_loss;
    writer_ = std::make_unique<StateWriter>(fmt::format("{}/checkpoint-{}", out_, step), model_,
                                            step, identity_, more, ranks_, true);
    since_ = Stopwatch();
  }
  // Every rank; before what is saved changes. A checkpoint that could not be written is said, and
  // the run goes on: the one before it is still there, and the next may find room.
  void finish() {
    if (!writer_) return;
    const std::unique_ptr<StateWriter> done = std::move(writer_);
    failed_.clear();
    try {
      done->finish();
    } catch (const PeerError&) {
      throw;
    } catch (const Error& e) {
      failed_ = e.what();
      const std::string last = ranks_.lead() ? newest_checkpoint(out_) : "";
      note("{}; {}; going on\n", failed_,
           last.empty() ? "there is no other checkpoint" : "the last one is " + last);
      return;
    }
    const int64_t keep = a_.num("keep-checkpoints");
    if (keep == 0 || !ranks_.lead()) return;
    try {
      keep_newest_checkpoints(out_, keep, a_.on("keep-best"));
    } catch (const Error& e) {
      note("{}\n", e.what());  // too many checkpoints are no reason to end the run
    }
  }
  const std::string& failed() const { return failed_; }
  double minutes() const { return since_.seconds() / 60; }

 private:
  const Args& a_;
  Model& model_;
  const Ranks& ranks_;
  std::string identity_, out_, failed_;
  std::unique_ptr<StateWriter> writer_;
  Stopwatch since_;
};

// Who holds which expert, where ranks share them; what placement.json is to hold.
std::string share_experts(const Args& a, Model& model, const Ranks& ranks) {
  a.no_effect_unless(ranks.ep > 1, "expert-scores", "no experts are shared (--ep 1)");
  if (ranks.ep == 1) return "";
  std::optional<LayerScores> tokens;
  if (a.given("expert-scores")) tokens = read_scores(a.str("expert-scores")).token;
  const Placement p = place_experts(model, ranks.ep, tokens);
  if (!a.on("quiet")) note("experts by rank: {}\n", summary(p));
  model.share_experts(ranks.sharing, p.owner, false);
  return to_json(p).dump(1) + "\n";
}

enum Flags : unsigned { kStop = 1, kSaveNow = 2 };

void run_rank(const Args& a, Ctx ctx, const Ranks& ranks) {
  const std::string &out = a.required("out"), &data = a.required("data");
  if (!a.given("eval-data")) a.no_effect_unless(false, "eval-every", "there is no --eval-data");
  const bool saves_often = a.num("save-every") > 0 || a.real("save-minutes") > 0;
  a.no_effect_unless(saves_often, "keep-checkpoints", "there is no --save-every or --save-minutes");
  a.no_effect_unless(a.num("keep-checkpoints") > 0 && a.given("eval-data"), "keep-best",
                     "it needs --keep-checkpoints and --eval-data");
  check(!is_run_checkpoint(a.str("MODEL")),
        "{}: is a checkpoint of a run: --resume --out RUN goes on with it", a.str("MODEL"));
  TrainOptions opt = train_options(a);
  Replaced replaced;
  auto model = open_model(a, &replaced);
  Tokenizer tok = Tokenizer::load(a.str("MODEL"));
  std::string expert_cfg;
  LoraOptions lora = choose_what_trains(a, *model, expert_cfg);
  check_balance_loss(a, *model);
  if (opt.loss_offset = constant_of_authors(a, *model); opt.loss_offset > 0) opt.aux_alpha = 0;
  const std::string& method = a.str("method");
  bool is_lora = method == "lora" || method == "pesc", full = method == "full";
  for (const auto& [name, dir] : replaced) {
    check(full || is_lora || model->params.at(name).trainable,
          "--adapter {}: its {} is not among what --experts trains, so the new adapter would not "
          "hold it: merge it first, or select its experts too",
          dir, name);
    if (is_lora && !a.on("quiet"))
      note("the adapter will be one for {} with {}: name both, in this order, where it is used\n",
           a.str("MODEL"), dir);
    if (is_lora) break;
  }
  if (ranks.lead()) {
    sweep_leftovers(out);
    check(!fs::exists(out) || fs::is_directory(out), "{}: is no folder", out);
    check(a.on("resume") || holds_no_result(out),
          "{}: is not empty (--resume goes on from a checkpoint in it; else name a new folder)",
          out);
  }
  std::vector<TrainRow> rows = training_rows(a, data, tok), eval_rows;
  if (a.given("eval-data")) eval_rows = evaluation_rows(a, a.str("eval-data"), tok);
  for (const auto* set : {&rows, &eval_rows})
    check(longest_document(*set) <= model->config.max_positions,
          "{}: max_position_embeddings is {}, the longest document has {} tokens: lower --seq {}",
          model->config.where, model->config.max_positions, longest_document(*set), a.num("seq"));
  // Before the first message that depends on it: a rank with other options or files than the lead
  // would train towards another model. What only one rank shows or does may differ.
  RunRecord record = record_of(a);
  if (!ranks.alone()) {
    std::string mine;
    for (const auto& [key, value] : record.config.items())
      if (key != "threads" && key != "quiet" && key != "verbose" && key != "json")
        mine += fmt::format("--{}={}\n", key, value.dump());
    std::istringstream identity(record.identity);
    for (std::string line; std::getline(identity, line);)
      for (const char* file : {"data=", "model=", "experts=", "adapter="})
        if (line.starts_with(file)) mine += "what is in " + line + "\n";
    ranks.world.wait_patiently(
        true);  // reading the model for its hash takes one longer than another
    const std::string leads = ranks.world.broadcast(mine, 0, "options and files");
    ranks.world.wait_patiently(false);
    check(mine == leads, "has other options or files than rank 0: {}", differing_keys(leads, mine));
    ranks.world.barrier("options and files");
  }
  const Fits fits = check_fits(a, *model, rows, ctx.compute, ranks);
  model->recompute = fits.recompute;
  const std::string placement = share_experts(a, *model, ranks);
  GradSum sum(ranks, model->params, opt.grad_accum);
  model->params.prepare_training(
      ctx.compute, {.moments_8bit = a.str("optimizer") == "adamw8bit", .sources = ranks.ep});
  if (const auto all = model->params.trainable();
      a.str("optimizer") == "adamw8bit" &&
      std::none_of(all.begin(), all.end(), [](const Param* p) { return p->m_scale; }))
    note(
        "--optimizer adamw8bit: no tensor that trains has {} elements, so their moments stay in "
        "32 bits\n",
        ParamStore::kMin8Bit);

  // Ranks of a machine share the pages of mapped files; huge pages would be each one's own.
  if (ranks.alone() || a.str("weights") == "huge")
    place_weights(a, *model, opt.steps * opt.grad_accum, fits.left);

  int64_t done = 0, last = 0, trainable = 0;
  for (Param* p : model->params.trainable()) trainable += p->value.numel();
  std::string torn, newest = a.on("resume") && ranks.lead() ? newest_checkpoint(out, &torn) : "";
  check(!a.on("resume") || !ranks.lead() || !newest.empty(),
        "{}: has no checkpoint to resume{}; start without --resume", out,
        torn.empty() ? "" : fmt::format(" ({} is not whole)", torn));
  if (!torn.empty()) note("{}: is not whole; going on from {}\n", torn, newest);
  std::optional<NewFolder> folder;
  if (ranks.lead()) folder.emplace(out);
  newest = ranks.world.broadcast(newest, 0, "checkpoint to resume");
  if (!newest.empty()) done = read_state(newest, *model, record.identity);
  check(done <= opt.steps, "{}: is at step {}, --steps is {}", newest, done, opt.steps);
  ranks.world.barrier("checkpoint to resume");  // read by all: only now is the folder touched
  std::optional<Log> log;
  if (ranks.lead()) {
    write_file_atomic(out + "/run.yaml", a.yaml());
    if (placement.empty())
      fs::remove(out + "/placement.json");  // of a layout that this run goes on from
    else
      write_file_atomic(out + "/placement.json", placement);
    folder->keep();
    log.emplace(out + "/log.jsonl", !newest.empty());
    log->line({{"config", record.config},
               {"data_hash", record.data_hash},
               {"model_hash", record.model_hash},
               {"binary_hash", record.binary_hash},
               {"trainable_parameters", trainable},
               {"weights_4bit", model->base.weights_4bit},
               {"bytes_4bit", model->base.bytes_4bit},
               {"rows", rows.size()},
               {"ranks", ranks.world.size()},
               {"ep", ranks.ep},
               {"recompute", model->recompute},
               {"resumed_at", done}});
  }
  for (int sig : {SIGINT, SIGTERM, SIGUSR1}) std::signal(sig, ask_to_stop);
  if (opt.grad_accum < ranks.world.size())
    note(
        "{} ranks share the {} micro-batch{} of a step: {} have no tokens of their own; raise "
        "--grad-accum\n",
        ranks.world.size(), opt.grad_accum, opt.grad_accum == 1 ? "" : "es",
        ranks.world.size() - opt.grad_accum);
  if (const int64_t step = opt.batch * opt.grad_accum; static_cast<int64_t>(rows.size()) < step)
    note("{} rows, {} a step: each step sees some of them more than once\n", rows.size(), step);
  if (!a.on("quiet"))
    note("{} rows of up to {} tokens; {} trainable parameters; {} tokens a step\n", rows.size(),
         a.num("seq"), trainable, opt.batch * opt.grad_accum * a.num("seq"));
  Saves saves(a, *model, ranks, record.identity);
  bool stopped = false;
  TrainHooks hooks;
  hooks.before_update = [&] { saves.finish(); };
  hooks.flags = [&] {
    const double every = a.real("save-minutes");
    const bool due = ranks.lead() && every > 0 && saves.minutes() >= every;
    return (stop_asked != 0 ? kStop : 0u) | (due ? kSaveNow : 0u);
  };
  hooks.after = [&](const StepLog& s) {
    Json j = log_line(s, opt, ranks);
    std::optional<double> eval_loss;
    if (!eval_rows.empty() && (s.step % a.num("eval-every") == 0 || s.step == opt.steps)) {
      eval_loss = evaluate_loss(ctx, *model, eval_rows, 1, ranks);
      j["eval_loss"] = *eval_loss;
    }
    if (log) log->line(j);
    bool show = s.step % std::max<int64_t>(1, opt.steps / 20) == 0 || s.step == opt.steps;
    if (!a.on("quiet") && (show || eval_loss))
      note("step {}/{}  loss {:.9g}  norm {:.3g}  {:.0f} tokens/s{}\n", s.step, opt.steps, s.loss,
           s.grad_norm, static_cast<double>(s.tokens) / s.seconds,
           eval_loss ? fmt::format("  eval loss {:.6g}", *eval_loss) : "");
    last = s.step;
    stopped = (s.flags & kStop) != 0 && last < opt.steps;
    const bool due = a.num("save-every") > 0 && s.step % a.num("save-every") == 0;
    if (stopped || due || (s.flags & kSaveNow) != 0) saves.begin(s.step, eval_loss);
    return !stopped;
  };
  train(ctx, *model, rows, opt, done, hooks, ranks, sum);
  saves.finish();
  if (stopped) check(saves.failed().empty(), "stopped after step {}: {}", last, saves.failed());
  if (!stopped) gather_trained(*model, ranks.world, ctx.compute);
  if (!ranks.lead()) return;  // the lead writes, for as long as it takes
  if (stopped) {
    note("stopped after step {} of {}: the same command with --resume goes on from {}\n", last,
         opt.steps, newest_checkpoint(out));
    if (a.on("json"))
      print_json({{"out", newest_checkpoint(out)},
                  {"stopped", true},
                  {"trainable_parameters", trainable},
                  {"peak_bytes", peak_bytes()}});
    if (stop_asked == SIGINT) {  // as every other command ends at Ctrl-C: no `&&` goes on
      std::fflush(nullptr);
      std::signal(SIGINT, SIG_DFL);
      std::raise(SIGINT);
    }
    return;
  }
  if (full)
    write_model(out + "/model", *model, a.str("MODEL"));
  else
    write_adapter(out + "/adapter", *model, a.str("MODEL"), expert_cfg, is_lora ? &lora : nullptr);
  std::string result = out + (full ? "/model" : "/adapter");
  if (a.on("json"))
    return print_json(
        {{"out", result}, {"trainable_parameters", trainable}, {"peak_bytes", peak_bytes()}});
  fmt::print("{}\n", result);
}

void run(const Args& a) {
  const Ctx ctx = a.context();
  on_ranks(a, [&](const Ranks& ranks) { run_rank(a, ctx, ranks); });
}

}  // namespace
const Command kTrain{
    "train", "train experts (ESFT), adapters and router (PESC), LoRA factors, or everything",
    "sutor train model/ --data task.jsonl --method esft --experts expert_cfg.json --out run/",
    declare, run};
}  // namespace sutor
