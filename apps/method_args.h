#pragma once
// --method and what it trains: shared by train and estimate.

#include "apps/args.h"
#include "model/lora.h"

namespace sutor {

void declare_method(Args& a);
// The option's default is `pesc` for --method pesc (the authors' recipe), else `others`.
void default_by_method(Args& a, const char* option, const char* others, const char* pesc);
// --format is the PESC prompt for --method pesc where the model has no chat template.
void default_format(Args& a);
// --aux-loss; not given, it is the model's own where its config.json asks for one and the router
// trains, else 0.
void declare_balance_loss(Args& a);
// After choose_what_trains: throws for a model without routers; says what was switched on or off.
void check_balance_loss(const Args& a, Model& model);

// What --aux authors adds to every loss; 0 without it.
double constant_of_authors(const Args& a, const Model& model);

// The LoRA of --method lora or pesc.
LoraOptions lora_of(const Args& a);
// Marks what trains, and packs what does not under --quantize; `expert_cfg` receives the text of
// the expert configuration (esft).
LoraOptions choose_what_trains(const Args& a, Model& model, std::string& expert_cfg);

}  // namespace sutor
