#pragma once
// Whether a training run fits the memory that is there, asked before it takes any: what `sutor
// estimate` predicts beyond the weights that lie in mapped files (the system reads those again when
// it must) against what the machine and its control group still give. Test: tests/fits.cpp.

#include "apps/args.h"
#include "model/model.h"
#include "model/trainer.h"

namespace sutor {

struct Ranks;
struct Fits {
  bool recompute;  // as --recompute says, or as --max-memory needs; it changes no bit of the result
  int64_t left;    // bytes that are available beside the run, before it has taken any
};
// After choose_what_trains(). Throws one line when the run cannot fit, in the machine's memory or
// in --max-memory (GiB; then recomputing is tried too); says so on stderr when it fits only by
// reading weights from the disk in every step.
// On several ranks the first one decides, for its share of its host's memory.
Fits check_fits(const Args& a, const Model& model, const std::vector<TrainRow>& rows,
                Compute compute, const Ranks& ranks);

}  // namespace sutor
