// sutor score: expert scores of a task, both functions in one pass over its tokens.
#include <cstdio>
#include <filesystem>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/data_args.h"
#include "apps/ranks.h"
#include "apps/run_checkpoint.h"
#include "io/file.h"
#include "model/esft.h"

namespace sutor {
namespace {

// Routing of every MoE layer, collected per document.
struct Collector : Trace {
  ScoreAccumulator acc;
  const Batch* batch = nullptr;
  bool normalize;
  float scale;  // the gate's affinity is its weight before routed_scaling_factor (paper, eq. 2)
  std::map<int, std::string> raw;  // layer -> lines, when asked for
  bool keep_raw;
  Collector(const Config& c, bool per_sample, bool normalize, bool keep_raw)
      : acc(static_cast<int>(c.experts), c.route.top_k, per_sample),
        normalize(normalize),
        scale(c.route.scale),
        keep_raw(keep_raw) {}
  bool routing_only() const override { return true; }
  void routing(int layer, const Routing& r) override {
    int64_t K = r.expert.cols(), T = r.expert.rows();
    for (int64_t t = 0; t < T;) {
      int64_t end = t + 1;
      while (end < T && batch->start.i32()[end] == batch->start.i32()[t]) ++end;
      const int32_t* ids = r.expert.i32() + t * K;
      const float* w = r.weight.value.f32() + t * K;
      std::vector<float> gate(w, w + (end - t) * K);
      for (float& g : gate) g /= scale;
      acc.add(layer, ids, gate.data(), end - t, normalize);
      if (keep_raw) raw[layer] += raw_line(ids, gate.data(), (end - t) * K);
      t = end;
    }
  }
};

// The logs replace the folder, so it must be new, empty, or hold such logs.
void check_raw_dir(const std::string& dir) {
  namespace fs = std::filesystem;
  if (fs::exists(dir)) {
    check(fs::is_directory(dir), "{}: is no folder", dir);
    for (const auto& e : fs::directory_iterator(dir))
      check(e.path().filename().string().starts_with("expert_weights_"),
            "{}: holds {}, which is no routing log; name a new folder", dir,
            e.path().filename().string());
  }
  check_can_write(dir, true);
}

void write_raw(const std::string& dir, const std::map<int, std::string>& raw) {
  AtomicFolder folder(dir);
  for (const auto& [layer, text] : raw)
    write_file_atomic(fmt::format("{}/expert_weights_{}.txt", folder.dir(), layer), text);
  folder.commit();
}

void from_raw(const Args& a) {
  if (a.given("MODEL"))
    throw UsageError(
        fmt::format("{} and --from-raw {}: which of the two? (routing logs are scored "
                    "without a model)",
                    a.str("MODEL"), a.str("from-raw")));
  for (const char* o :
       {"data", "tokens", "seq", "raw-dir", "adapter", "format", "date", "normalise-gate",
        "skip-bad-rows", "weights", "device", "dtype", "threads", "comm-timeout"})
    a.no_effect_unless(false, o, "--from-raw reads routing logs");
  if (!a.given("top-k") || !a.given("experts"))
    throw UsageError("--from-raw needs --top-k and --experts: the logs do not say them");
  write_scores(a.required("out"),
               scores_from_raw(a.str("from-raw"), static_cast<int>(a.num("top-k")),
                               static_cast<int>(a.num("experts")), a.str("average") == "sample"));
}

void run_rank(const Args& a, Ctx ctx, const Ranks& ranks) {
  const std::string& out = a.str("out");
  for (const char* o : {"top-k", "experts"})
    a.no_effect_unless(false, o, "config.json says it (only --from-raw needs it)");
  if (!a.given("MODEL")) throw UsageError("MODEL is missing (or --from-raw DIR)");
  const std::string& file = a.required("data");
  check_not_an_input(out, {a.str("data")});
  check_can_write(out);
  if (a.given("raw-dir")) check_raw_dir(a.str("raw-dir"));
  auto model = open_model(a);
  check(!model->config.moe_layers().empty(),
        "{}: a dense {} model has no experts to score (sutor train --method full or lora)",
        a.str("MODEL"), model->config.model_type);
  share_experts_for_inference(*model, ranks);
  Tokenizer tok = Tokenizer::load(hub_folder(a.str("MODEL")));
  std::vector<Example> examples = load_examples(a, file, tok);
  int64_t want = a.num("tokens"), have = 0;
  size_t n = 0;
  while (n < examples.size() && have < want)
    have += std::min<int64_t>(static_cast<int64_t>(examples[n++].ids.size()), a.num("seq"));
  examples.resize(n);
  int64_t truncated = 0;
  std::vector<TrainRow> rows = pack(examples, Packing::kDocuments, a.num("seq"), 0, 0, truncated);
  if (truncated > 0 && !a.on("quiet"))
    note("{} of {} samples are longer than --seq {} and lost their end\n", truncated, n,
         a.num("seq"));
  Collector tap(model->config, a.str("average") == "sample", a.on("normalise-gate"),
                a.given("raw-dir"));
  place_weights(a, *model, std::min(have, want) / a.num("seq"));
  Stopwatch watch;
  int64_t tokens = 0;
  double said = 0;
  for (size_t r = 0; r < rows.size();) {
    // Short rows together, --seq tokens at a time: the experts' weights are read once for all.
    std::vector<std::vector<int32_t>> ids, labels, starts;
    for (int64_t room = a.num("seq");
         r < rows.size() && (ids.empty() || static_cast<int64_t>(rows[r].ids.size()) <= room);
         ++r) {
      room -= static_cast<int64_t>(rows[r].ids.size());
      starts.push_back(rows[r].start.empty() ? std::vector<int32_t>(rows[r].ids.size(), 0)
                                             : rows[r].start);
      labels.push_back(std::move(rows[r].labels));
      ids.push_back(std::move(rows[r].ids));
    }
    Batch b = make_batch(ids, labels, starts);
    tap.batch = &b;
    Tape tape(ctx, false);
    model->hidden(tape, b, tap, nullptr);
    tokens += b.ids.numel();
    if (double t = watch.seconds(); !a.on("quiet") && t > said + 10) {
      said = t;
      note("{} of up to {} tokens, {:.1f} tokens/s\n", tokens, std::min(have, want),
           static_cast<double>(tokens) / t);
    }
  }
  double seconds = watch.seconds();
  if (!ranks.lead()) return;
  if (a.given("raw-dir")) write_raw(a.str("raw-dir"), tap.raw);
  write_scores(out, tap.acc.scores());
  if (a.on("json"))
    return print_json({{"samples", n},
                       {"tokens", tokens},
                       {"seconds", seconds},
                       {"tokens_per_s", static_cast<double>(tokens) / seconds},
                       {"peak_bytes", peak_bytes()}});
  fmt::print("scored {} experts in {} layers on {} tokens of {} samples, {:.1f} tokens/s -> {}\n",
             model->config.experts, model->config.moe_layers().size(), tokens, n,
             static_cast<double>(tokens) / seconds, out);
}

void run(const Args& a) {
  a.required("out");
  a.no_effect_unless(false, "seed", "nothing is random: rows come in the file's order");
  if (a.given("from-raw")) return from_raw(a);
  const Ctx ctx = a.context();
  on_ranks(a, [&](const Ranks& ranks) { run_rank(a, ctx, ranks); });
}

void declare(Args& a) {
  declare_model(a, true);
  declare_ranks(a, false);
  declare_data(a);
  declare_weights(a);
  a.string("out", "scores.json to write");
  a.integer("tokens", "how many of the data's tokens to use", 131072, 1, int64_t{1} << 40);
  a.integer("seq", "tokens of a row; samples share rows, never attention", 4096, 1, 1 << 20);
  a.choice("average",
           "over all tokens (as published), or the mean of the samples' scores (as in the paper)",
           "pooled", {"pooled", "sample"});
  a.flag("normalise-gate", "gate scores from weights that sum to 1 per token");
  a.string("raw-dir", "also write routing logs expert_weights_<layer>.txt here");
  a.string("from-raw", "make the scores from such logs instead of running a model");
  a.integer("top-k", "with --from-raw: experts per token in those logs", 6, 1, 1024);
  a.integer("experts", "with --from-raw: experts of a layer", 64, 1, 1 << 20);
  for (const char* o : {"top-k", "experts"}) a.no_default(o);  // else config.json says them
}

}  // namespace
const Command kScore{"score", "expert scores of a task",
                     "sutor score model/ --data task.jsonl --out scores.json", declare, run};
}  // namespace sutor
