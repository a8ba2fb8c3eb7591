#pragma once
// Whether a PEFT adapter holds factors for all that its config names: a file that is cut off, or
// one for another model, must not count as a smaller adapter. Test: tests/peft.cpp.

#include <set>
#include <string>

#include "model/model.h"
#include "model/peft_config.h"

namespace sutor {

// A linear in PEFT's eyes: routers are, in some versions of transformers.
bool is_matrix(const Param& p);
std::string module_of(const Param& p);  // its name without ".weight"

// Of a kind of module or fused parameter that carries factors, every one that is named does; and
// every name of target_modules and target_parameters that fits something has factors. Names that
// fit nothing in the model are peft's to allow. `done`: modules and parameters that got theirs.
void check_peft_complete(const PeftConfig& config, Model& model, const std::string& dir,
                         const std::set<std::string>& done);

}  // namespace sutor
