#include "apps/fits.h"

#include <algorithm>
#include <set>

#include "apps/estimate_scaling.h"
#include "apps/method_args.h"
#include "engine/dry_run.h"
#include "engine/ranks.h"
#include "io/memory.h"
#include "model/estimate.h"
#include "model/huge_pages.h"

namespace sutor {
namespace {

// Tokens of a dry run: a larger micro-batch is told from two of these sizes, on a straight line.
constexpr int64_t kTokens = 1 << 15;

// The micro-batch of the `n` longest rows, which a run meets sooner or later; rows come again when
// it is larger than the data.
Batch longest(const std::vector<const TrainRow*>& sorted, int64_t n) {
  std::vector<std::vector<int32_t>> ids, labels, starts;
  for (int64_t i = 0; i < n; ++i) {
    const TrainRow& r = *sorted[static_cast<size_t>(i) % sorted.size()];
    ids.push_back(r.ids);
    labels.push_back(r.labels);
    starts.push_back(r.start.empty() ? std::vector<int32_t>(r.ids.size(), 0) : r.start);
  }
  return make_batch(ids, labels, starts);
}

std::string gib(double bytes) { return fmt::format("{:.3g} GiB", bytes / (1 << 30)); }

// What of it is at hand to need less.
std::string remedies(const Args& a, bool recompute) {
  std::vector<std::string> all;
  if (a.num("batch") > 1) all.push_back("--batch");
  all.push_back("--seq");
  std::string s = "lower " + fmt::format("{}", fmt::join(all, " or "));
  if (!recompute) s += ", --recompute";
  if (a.str("optimizer") == "adamw") s += ", --optimizer adamw8bit";
  if (a.str("method") != "full" && a.str("quantize") == "none") s += ", --quantize nf4";
  return s;
}

// The longest micro-batch of a run by the dry run of its model: bytes, the weights' files apart.
struct Need {
  double beyond_weights, weights;
};

Need need_of(const Args& a, const std::vector<TrainRow>& rows, Compute compute, bool recompute,
             const Ranks& ranks) {
  std::vector<const TrainRow*> sorted;
  for (const TrainRow& r : rows) sorted.push_back(&r);
  std::stable_sort(sorted.begin(), sorted.end(), [](const TrainRow* x, const TrainRow* y) {
    return x->ids.size() > y->ids.size();
  });
  const int64_t batch = a.num("batch"),
                most = std::max<int64_t>(2, kTokens / std::ssize(sorted.front()->ids));
  const EstimateOptions options{compute,
                                recompute,
                                a.real("aux-loss") != 0 && a.str("aux") == "own",
                                {},
                                a.str("optimizer") == "adamw8bit",
                                a.num("grad-accum")};
  Need need{};
  auto beyond_weights = [&](int64_t n) {
    std::unique_ptr<Model> dry = dry_model(a.str("MODEL"), DType::BF16, compute);
    {
      DryRun factors;  // LoRA's
      std::string expert_cfg;
      choose_what_trains(a, *dry, expert_cfg);
    }
    Estimate e = estimate_training(*dry, {longest(sorted, n)}, options);
    for_ranks(e, *dry, ranks.world.size(), ranks.ep);
    need.weights = static_cast<double>(e.mapped);
    return static_cast<double>(e.peak() - e.mapped);
  };
  need.beyond_weights = beyond_weights(std::min(batch, most));
  if (batch > most) {
    const double half = beyond_weights(most / 2),
                 row = (need.beyond_weights - half) / static_cast<double>(most - most / 2);
    need.beyond_weights += row * static_cast<double>(batch - most);
  }
  return need;
}

// What the process holds beside the weights: code, tokenizer, data.
double process_beside(const Model& model) {
  std::set<const Storage*> seen;
  int64_t weights = 0;
  for (const Param& p : model.params.all())
    if (p.value.storage && !p.value.storage->mapped() && seen.insert(p.value.storage.get()).second)
      weights += p.value.nbytes();
  return static_cast<double>(process_bytes("VmExe") + process_bytes("VmLib") +
                             std::max<int64_t>(0, process_bytes("RssAnon") - weights));
}

Fits check_here(const Args& a, const Model& model, const std::vector<TrainRow>& rows,
                Compute compute, const Ranks& ranks, int here) {
  // What is there, for each rank of this host; 0: the system does not say.
  const double available = static_cast<double>(available_memory()) / here;
  const bool limited = a.given("max-memory");
  const double most = limited ? a.real("max-memory") * (1 << 30) : 0,
               process = limited ? process_beside(model) : 0;
  // Estimates have been up to 6 % below a small run's peak.
  auto whole = [&](const Need& n) { return 1.06 * (process + n.beyond_weights + n.weights); };
  auto fits = [&](const Need& n) {
    return (!limited || whole(n) <= most) && (available == 0 || n.beyond_weights <= available);
  };
  bool recompute = a.on("recompute");
  const Need asked = need_of(a, rows, compute, recompute, ranks);
  Need need = asked;
  if (limited && !recompute && !fits(asked)) {
    need = need_of(a, rows, compute, true, ranks);
    recompute = true;
  }
  const bool chosen = recompute && !a.on("recompute");
  if (limited && whole(need) > most)
    fail("--max-memory {}: training needs about {}{}: {}", a.real("max-memory"), gib(whole(need)),
         chosen ? " even with --recompute" : "", remedies(a, recompute));
  check(available == 0 || need.beyond_weights <= available,
        "training needs about {} beyond the weights, {} are available: {}",
        gib(need.beyond_weights), gib(available), remedies(a, recompute));
  if (limited && !a.on("quiet"))
    note("--max-memory {}: about {} at the peak{}\n", a.real("max-memory"), gib(whole(need)),
         chosen      ? fmt::format(" by recomputing; {} with everything kept for backward",
                                   gib(whole(asked)))
         : recompute ? ""
                     : " with everything kept for backward");
  const auto mapped = static_cast<double>(mapped_weight_bytes(model));
  if (available > 0 && need.beyond_weights + mapped > available && !a.on("quiet"))
    note(
        "training needs about {} and {} of weights in files, {} are available: the weights will be "
        "read from the disk in every step ({})\n",
        gib(need.beyond_weights), gib(mapped), gib(available), remedies(a, recompute));
  return {recompute, static_cast<int64_t>(std::max(0.0, available - need.beyond_weights))};
}

}  // namespace

Fits check_fits(const Args& a, const Model& model, const std::vector<TrainRow>& rows,
                Compute compute, const Ranks& ranks) {
  const int here = ranks.world.ranks_here();
  if (!ranks.lead()) {  // the lead decides for all, and fails for all
    const std::string fits = ranks.world.broadcast("", 0, "memory");
    return {fits == "1", 0};
  }
  const Fits fits = check_here(a, model, rows, compute, ranks, here);
  ranks.world.broadcast(fits.recompute ? "1" : "0", 0, "memory");
  return fits;
}

}  // namespace sutor
