#include "model/trainer.h"

#include <chrono>
#include <cmath>
#include <numeric>

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
           int64_t done, const std::function<bool(const StepLog&)>& after) {
  check(!rows.empty(), "no rows to train on");
  std::vector<Param*> params = model.params.trainable();
  check(!params.empty(), "nothing is trainable");
  for (int64_t s = done; s < opt.steps; ++s) {
    auto begin = std::chrono::steady_clock::now();
    StepLog log{};
    log.step = s + 1;
    log.lr = learning_rate(opt.schedule, opt.lr, s, opt.steps, opt.warmup);
    std::vector<Batch> micro;
    for (int64_t a = 0; a < opt.grad_accum; ++a) {
      micro.push_back(batch_of(rows, rows_at((s * opt.grad_accum + a) * opt.batch, opt.batch,
                                             static_cast<int64_t>(rows.size()), opt)));
      log.tokens += micro.back().ids.numel();
      log.trained_tokens += trained(micro.back());
    }
    check(log.trained_tokens > 0, "step {}: none of its {} tokens is trained (all labels are -100)",
          s + 1, log.tokens);
    model.params.zero_grads();
    for (int64_t a = 0; a < opt.grad_accum; ++a) {
      const Batch& b = micro[static_cast<size_t>(a)];
      bool means = opt.mean == LossMean::kMeans;
      int64_t n = means ? std::max<int64_t>(1, trained(b)) * opt.grad_accum : log.trained_tokens;
      DropoutOn dropout(ctx, opt.seed, s * opt.grad_accum + a);
      LoadTap tap(log.load);
      Tape tape(ctx, true);
      std::vector<Var> aux;
      Var x = model.hidden(tape, b, tap, opt.aux_alpha != 0 ? &aux : nullptr);
      tap.stop();  // blocks that are recomputed route again
      Var loss =
          lm_loss(x, model.head(), b.targets, static_cast<float>(1.0 / static_cast<double>(n)));
      log.loss += loss.value.f32()[0];
      std::vector<std::pair<Var, float>> seeds{{loss, 1.0f}};
      // The ESFT authors' hook in DeepSeek's gate adds its balance gradient in backward, which the
      // trainer's division of the loss does not reach: once per micro-batch, whatever their number.
      // Everywhere else the balance loss is part of the loss that is divided.
      const AuxLoss kind = model.config.aux;
      bool whole = means && (kind == AuxLoss::kSequence || kind == AuxLoss::kBatch);
      for (const Var& v : aux) {
        log.aux += v.value.f32()[0] / static_cast<double>(opt.grad_accum);
        seeds.emplace_back(v, static_cast<float>(opt.aux_alpha / (whole ? 1 : opt.grad_accum)));
      }
      tape.backward(seeds);
    }
    log.loss += opt.loss_offset;
    check(std::isfinite(log.loss), "step {}: the loss is {}", s + 1, log.loss);
    log.grad_norm = grad_norm(params);
    check(std::isfinite(log.grad_norm), "step {}: the gradient norm is {} (the loss is {})", s + 1,
          log.grad_norm, log.loss);
    double factor = opt.clip > 0 ? std::min(1.0, opt.clip / (log.grad_norm + 1e-6)) : 1.0;
    adamw(ctx, params, opt.adamw, log.lr, factor, s + 1);
    log.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (!after(log)) return;
  }
}

double evaluate_loss(Ctx& ctx, Model& model, const std::vector<TrainRow>& rows, int64_t batch) {
  double sum = 0;
  int64_t tokens = 0;
  Trace none;
  for (int64_t i = 0; i < static_cast<int64_t>(rows.size()); i += batch) {
    std::vector<int64_t> which;
    for (int64_t r = i; r < std::min<int64_t>(i + batch, static_cast<int64_t>(rows.size())); ++r)
      which.push_back(r);
    Batch b = batch_of(rows, which);
    Tape tape(ctx, false);
    sum +=
        lm_loss(model.hidden(tape, b, none, nullptr), model.head(), b.targets, 1.0f).value.f32()[0];
    tokens += trained(b);
  }
  check(tokens > 0, "no trained token to evaluate (all labels are -100)");
  return sum / static_cast<double>(tokens);
}

}  // namespace sutor
