#pragma once
// --method and what it trains: shared by train and estimate.

#include "apps/args.h"
#include "model/lora.h"

namespace sutor {

void declare_method(Args& a);
// Marks what trains; `expert_cfg` receives the text of the expert configuration (esft).
LoraOptions choose_what_trains(const Args& a, Model& model, std::string& expert_cfg);

}  // namespace sutor
