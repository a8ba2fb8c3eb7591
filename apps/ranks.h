#pragma once
// The ranks of a command: processes that mpirun or srun started, or threads of this one. Rank 0
// speaks: notices and results of the others are not shown, their errors are.

#include <functional>

#include "apps/args.h"
#include "engine/ranks.h"
#include "model/model.h"

namespace sutor {

// --comm-timeout; of `training`, --ep, --expert-scores and --ranks-as-threads too.
void declare_ranks(Args& a, bool training);
// Calls `body` on every rank of this process. Sets the number of threads (a.context() first): the
// machine's cores, shared among its ranks.
void on_ranks(const Args& a, const std::function<void(const Ranks&)>& body);
// Inference on several ranks: each holds a share of the experts, all compute the same tokens. One
// rank: nothing.
void share_experts_for_inference(Model& model, const Ranks& ranks);
bool declares_ranks(const Args& a);

}  // namespace sutor
