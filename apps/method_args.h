#pragma once
// --method and what it trains: shared by train and estimate.

#include "apps/args.h"
#include "model/lora.h"

namespace sutor {

void declare_method(Args& a);
// --aux-loss; not given, it is the model's own where its config.json asks for one and the router
// trains, else 0.
void declare_balance_loss(Args& a);
// After choose_what_trains: throws for a model without routers; says what was switched on or off.
void check_balance_loss(const Args& a, Model& model);

// Marks what trains; `expert_cfg` receives the text of the expert configuration (esft).
LoraOptions choose_what_trains(const Args& a, Model& model, std::string& expert_cfg);

}  // namespace sutor
