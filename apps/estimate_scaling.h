#pragma once
// `sutor estimate --cluster FILE.yaml`: a table of predicted step times on 1 to 1024 ranks, as
// replicas and with shared experts (model/scaling.h).

#include "apps/args.h"
#include "model/estimate.h"

namespace sutor {

void declare_scaling(Args& a);
// What trains is marked; prints the table or the JSON.
void print_scaling(const Args& a, const Model& model, int64_t tokens_per_micro_batch,
                   int64_t micro_batches);
// The parts of an estimate that --ranks and --ep divide.
void for_ranks(Estimate& e, const Model& model, int ranks, int ep);

}  // namespace sutor
