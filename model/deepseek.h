#pragma once
// What the DeepSeek families' config.json have in common: routed and shared experts, and which
// layers stay dense. Source: modeling_deepseek.py of both.

#include "model/config.h"

namespace sutor {

// What a file that does not say means; width 0: it must.
struct DeepSeekDefaults {
  int64_t width = 0, shared = 0, dense = 0;  // of an expert; shared experts; dense layers in front
};
void read_deepseek_experts(const Reader& r, Config& c, const DeepSeekDefaults& defaults);

}  // namespace sutor
