#pragma once
// `mpirun -n R sutor bench comm`: how long messages between the ranks take.

#include "apps/args.h"
#include "engine/ranks.h"

namespace sutor {

void bench_comm(const Args& a, const Ranks& ranks);

}  // namespace sutor
