#pragma once
// The PESC act of the demo (sutor demo --method pesc).

#include "apps/args.h"

namespace sutor {

void declare_demo_pesc(Args& a);  // the options that only this act has
void demo_pesc(const Args& a);

}  // namespace sutor
