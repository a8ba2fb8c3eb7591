#pragma once
// The training loop: batch -> forward -> backward -> clip -> AdamW -> log -> save. Method-blind: it
// trains what the parameter store says is trainable.

#include <functional>

#include "engine/optim.h"
#include "model/expert_load.h"

namespace sutor {

class GradSum;
struct Ranks;

// One row of the packed data set: ids and labels at the same positions (-100 = not trained), and
// each token's document start.
struct TrainRow {
  std::vector<int32_t> ids, labels, start;
};

enum class LossMean {
  kTokens,  // sum of token losses / trained tokens of the whole step
  kMeans,   // mean of the micro-batches' means, as transformers' Trainer 4.44 (--packing
            // esft-compat)
};

struct TrainOptions {
  int64_t steps = 100, batch = 1, grad_accum = 1, warmup = 0;
  double lr = 1e-5, clip = 1.0, aux_alpha = 0;  // clip 0: none; aux_alpha 0: no balance loss
  double loss_offset = 0;  // added to the logged loss: the PESC authors' constant (--aux authors)
  Schedule schedule = Schedule::kConstant;
  AdamWOptions adamw;
  LossMean mean = LossMean::kTokens;
  bool shuffle = true;  // rows in a new seeded order each epoch, else in file order
  uint64_t seed = 0;
};

struct StepLog {
  int64_t step;  // counts from 1
  double loss;
  int64_t tokens, trained_tokens;
  double grad_norm, lr, seconds;
  double aux = 0;      // the balance loss, unweighted, mean of the micro-batches; 0 where it is off
  ExpertLoad load;     // of the step's tokens; empty: a dense model
  unsigned flags = 0;  // TrainHooks::flags of all ranks, or-ed
  int64_t comm_bytes = 0;      // that this rank sent in the step
  double comm_seconds = 0;     // that it waited for others
  int64_t gradient_bytes = 0;  // of those bytes: gradients and trained values
};

// What the loop calls on every rank, at the same point of each.
struct TrainHooks {
  std::function<bool(const StepLog&)> after;  // each step; false: stop early
  std::function<unsigned()> flags;            // at the end of a step, for `after` of all ranks
  std::function<void()> before_update;        // values and optimiser state are about to change
};

// Row numbers of micro-batch rows `first`.. of the endless stream of epochs; depends on (seed,
// position) only, so that a resumed run and another micro-batch split see the same rows.
std::vector<int64_t> rows_at(int64_t first, int64_t count, int64_t rows, const TrainOptions& opt);

// Runs steps done+1 .. opt.steps. Micro-batch a of a step is rank a % R's; the result does not
// depend on R (engine/grad_sum.h). `sum` was made before model.params.prepare_training(). Throws on
// a non-finite loss or gradient norm.
void train(Ctx& ctx, Model& model, const std::vector<TrainRow>& rows, const TrainOptions& opt,
           int64_t done, const TrainHooks& hooks, const Ranks& ranks, GradSum& sum);
// On one rank.
void train(Ctx& ctx, Model& model, const std::vector<TrainRow>& rows, const TrainOptions& opt,
           int64_t done, const std::function<bool(const StepLog&)>& after);

// Mean loss over the trained tokens of the rows, no gradients.
double evaluate_loss(Ctx& ctx, Model& model, const std::vector<TrainRow>& rows, int64_t batch,
                     const Ranks& ranks);
double evaluate_loss(Ctx& ctx, Model& model, const std::vector<TrainRow>& rows, int64_t batch);

}  // namespace sutor
