#include "model/trainer.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>

#include "engine/grad_sum.h"
#include "engine/random.h"

namespace sutor {
namespace {

std::vector<int64_t> epoch_order(int64_t epoch, int64_t rows, const TrainOptions& opt) {
  std::vector<int64_t> order(rows);
  std::iota(order.begin(), order.end(), 0);
  if (!opt.shuffle) return order;
  uint64_t state = mix(opt.seed ^ mix(static_cast<uint64_t>(epoch)));
  for (int64_t i = rows - 1; i > 0; --i)
    std::swap(order[i], order[(state = mix(state)) % static_cast<uint64_t>(i + 1)]);
  return order;
}

Batch batch_of(const std::vector<TrainRow>& rows, const std::vector<int64_t>& which) {
  std::vector<std::vector<int32_t>> ids, labels, starts;
  for (int64_t r : which) {
    ids.push_back(rows[r].ids);
    labels.push_back(rows[r].labels);
    starts.push_back(rows[r].start.empty() ? std::vector<int32_t>(rows[r].ids.size(), 0)
                                           : rows[r].start);
  }
  return make_batch(ids, labels, starts);
}

// Dropout is on while a micro-batch goes forward and backward, with masks of its own that depend on
// the run's seed and its number alone: so the same after a resume, and when a block is recomputed.
class DropoutOn {
 public:
  DropoutOn(Ctx& ctx, uint64_t seed, int64_t micro_batch) : ctx_(ctx) {
    constexpr uint64_t kStream = 0x64726f706f757421;  // apart from the order of the rows
    ctx_.dropout = mix(mix(seed ^ kStream) ^ static_cast<uint64_t>(micro_batch)) | 1;
  }
  DropoutOn(const DropoutOn&) = delete;
  DropoutOn& operator=(const DropoutOn&) = delete;
  ~DropoutOn() { ctx_.dropout = 0; }

 private:
  Ctx& ctx_;
};

int64_t trained(const Batch& b) {
  int64_t n = 0;
  for (int64_t t = 0; t < b.targets.numel(); ++t) n += b.targets.i32()[t] >= 0;
  return n;
}

// The loss and the balance loss of a micro-batch.
struct Losses {
  double loss = 0, aux = 0;
};

// What each rank found, of the items that it has (item a is rank a % R's), in order of item.
std::vector<Losses> of_all(const Ranks& ranks, const std::vector<Losses>& mine, int64_t items) {
  const int64_t R = ranks.world.size(), waves = (items + R - 1) / R;
  std::vector<Losses> padded(mine), all(waves * R), out(items);
  padded.resize(waves);
  ranks.world.all_gather(padded.data(), waves * static_cast<int64_t>(sizeof(Losses)), all.data(),
                         "losses");
  for (int64_t a = 0; a < items; ++a) out[a] = all[a % R * waves + a / R];
  return out;
}

// Adds up what the ranks' routers counted.
void add_loads(const Ranks& ranks, ExpertLoad& load) {
  if (ranks.alone()) return;
  std::string mine;
  for (const auto& [layer, tokens] : load) {
    const int64_t head[2] = {layer, static_cast<int64_t>(tokens.size())};
    mine.append(reinterpret_cast<const char*>(head), sizeof head);
    mine.append(reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(int64_t));
  }
  load.clear();
  for (const std::string& text : ranks.world.all_gather(mine, "expert load"))
    for (size_t at = 0; at < text.size();) {
      int64_t head[2];
      std::memcpy(head, &text[at], sizeof head);
      at += sizeof head;
      std::vector<int64_t> tokens(head[1]);
      std::memcpy(tokens.data(), &text[at], tokens.size() * sizeof(int64_t));
      at += tokens.size() * sizeof(int64_t);
      std::vector<int64_t>& sum = load[static_cast<int>(head[0])];
      sum.resize(tokens.size());
      for (size_t e = 0; e < tokens.size(); ++e) sum[e] += tokens[e];
    }
}

}  // namespace

std::vector<int64_t> rows_at(int64_t first, int64_t count, int64_t rows, const TrainOptions& opt) {
  std::vector<int64_t> out, order;
  int64_t epoch = -1;
  for (int64_t i = first; i < first + count; ++i) {
    if (i / rows != epoch) order = epoch_order(epoch = i / rows, rows, opt);
    out.push_back(order[i % rows]);
  }
  return out;
}

void train(Ctx& ctx, Model& model, const std::vector<TrainRow>& rows, const TrainOptions& opt,
           int64_t done, const TrainHooks& hooks, const Ranks& ranks, GradSum& sum) {
  check(!rows.empty(), "no rows to train on");
  const std::vector<Param*> here = model.params.trained_here();
  check(!model.params.trainable().empty(), "nothing is trainable");
  const int64_t R = ranks.world.size(), A = opt.grad_accum, waves = (A + R - 1) / R;
  const bool means = opt.mean == LossMean::kMeans;
  for (int64_t s = done; s < opt.steps; ++s) {
    auto begin = std::chrono::steady_clock::now();
    ranks.world.say_where(fmt::format("step {}", s + 1));
    ranks.world.reset_traffic();
    StepLog log{};
    log.step = s + 1;
    log.lr = learning_rate(opt.schedule, opt.lr, s, opt.steps, opt.warmup);
    std::vector<Batch> micro(waves);  // this rank's; those it does not have stay empty
    const std::vector<int64_t> of_step =
        rows_at(s * A * opt.batch, A * opt.batch, static_cast<int64_t>(rows.size()), opt);
    for (int64_t a = 0; a < A; ++a) {
      const auto first = of_step.begin() + a * opt.batch;
      Batch b = batch_of(rows, {first, first + opt.batch});
      log.tokens += b.ids.numel();
      log.trained_tokens += trained(b);
      if (a % R == ranks.world.rank()) micro[a / R] = std::move(b);
    }
    check(log.trained_tokens > 0, "step {}: none of its {} tokens is trained (all labels are -100)",
          s + 1, log.tokens);
    std::vector<Losses> losses(waves);
    for (int64_t w = 0; w < waves; ++w) {
      const int64_t a = w * R + ranks.world.rank();
      model.params.zero_grads();
      if (a < A || ranks.ep > 1) {  // without a micro-batch: for the others' tokens
        const Batch b = a < A ? micro[w] : make_batch({});
        int64_t n = means ? std::max<int64_t>(1, trained(b)) * A : log.trained_tokens;
        DropoutOn dropout(ctx, opt.seed, s * A + a);
        LoadTap tap(log.load);
        Tape tape(ctx, true);
        std::vector<Var> aux;
        Var x = model.hidden(tape, b, tap, opt.aux_alpha != 0 && a < A ? &aux : nullptr);
        tap.stop();  // blocks that are recomputed route again
        Var loss =
            lm_loss(x, model.head(), b.targets, static_cast<float>(1.0 / static_cast<double>(n)));
        losses[w].loss = loss.value.f32()[0];
        std::vector<std::pair<Var, float>> seeds{{loss, 1.0f}};
        // The ESFT authors' hook in DeepSeek's gate adds its balance gradient in backward, which
        // the trainer's division of the loss does not reach: once per micro-batch, whatever their
        // number. Everywhere else the balance loss is part of the loss that is divided.
        const AuxLoss kind = model.config.aux;
        bool whole = means && (kind == AuxLoss::kSequence || kind == AuxLoss::kBatch);
        for (const Var& v : aux) {
          losses[w].aux += v.value.f32()[0] / static_cast<double>(A);
          seeds.emplace_back(v, static_cast<float>(opt.aux_alpha / (whole ? 1 : A)));
        }
        tape.backward(seeds);
      }
      sum.add(ctx, w);
    }
    for (const Losses& l : of_all(ranks, losses, A)) log.loss += l.loss, log.aux += l.aux;
    add_loads(ranks, log.load);
    log.loss += opt.loss_offset;
    check(std::isfinite(log.loss), "step {}: the loss is {}", s + 1, log.loss);
    log.grad_norm = sum.norm();
    check(std::isfinite(log.grad_norm), "step {}: the gradient norm is {} (the loss is {})", s + 1,
          log.grad_norm, log.loss);
    double factor = opt.clip > 0 ? std::min(1.0, opt.clip / (log.grad_norm + 1e-6)) : 1.0;
    if (hooks.before_update) hooks.before_update();
    adamw(ctx, here, opt.adamw, log.lr, factor, s + 1);
    sum.share_values();
    for (int64_t f :
         ranks.world.all_gather(static_cast<int64_t>(hooks.flags ? hooks.flags() : 0), "flags"))
      log.flags |= static_cast<unsigned>(f);
    for (const auto& [what, t] : ranks.world.traffic()) {
      log.comm_bytes += t.bytes;
      log.comm_seconds += t.seconds;
      if (what == "gradients" || what == "trained values") log.gradient_bytes += t.bytes;
    }
    log.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (!hooks.after(log)) return;
  }
}

void train(Ctx& ctx, Model& model, const std::vector<TrainRow>& rows, const TrainOptions& opt,
           int64_t done, const std::function<bool(const StepLog&)>& after) {
  Ranks alone;
  GradSum sum(alone, model.params, opt.grad_accum);
  train(ctx, model, rows, opt, done, {after, {}, {}}, alone, sum);
}

double evaluate_loss(Ctx& ctx, Model& model, const std::vector<TrainRow>& rows, int64_t batch,
                     const Ranks& ranks) {
  const auto n = static_cast<int64_t>(rows.size());
  const int64_t R = ranks.world.size(), items = (n + batch - 1) / batch,
                waves = (items + R - 1) / R;
  std::vector<Losses> losses(waves);
  int64_t tokens = 0;
  Trace none;
  for (int64_t item = 0; item < waves * R; ++item) {
    std::vector<int64_t> which;
    for (int64_t r = item * batch; r < std::min((item + 1) * batch, n); ++r) which.push_back(r);
    const Batch b = which.empty() ? make_batch({}) : batch_of(rows, which);
    tokens += trained(b);
    if (item % R != ranks.world.rank() || (which.empty() && ranks.ep == 1)) continue;
    Tape tape(ctx, false);
    losses[item / R].loss =
        lm_loss(model.hidden(tape, b, none, nullptr), model.head(), b.targets, 1.0f).value.f32()[0];
  }
  double total = 0;
  for (const Losses& l : of_all(ranks, losses, items)) total += l.loss;
  check(tokens > 0, "no trained token to evaluate (all labels are -100)");
  return total / static_cast<double>(tokens);
}

double evaluate_loss(Ctx& ctx, Model& model, const std::vector<TrainRow>& rows, int64_t batch) {
  return evaluate_loss(ctx, model, rows, batch, {});
}

}  // namespace sutor
