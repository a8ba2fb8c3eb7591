#pragma once
// Which row kernels (engine/cpu/rows_table.h) this machine runs, and how rows are shared among
// threads. Test: tests/kernels/pointwise.cpp.

#include <algorithm>
#include <cstdint>

#include "engine/cpu/rows_table.h"
#include "engine/moe.h"
#include "engine/parallel.h"
#include "engine/ref/dropout.h"

namespace sutor::cpu {

const RowKernels& row_kernels();  // for current_isa()

inline DropoutConstants dropout_constants(const Dropout& d) {
  check(ref::dropout_leaves(d.p), "dropout: {} is no probability or leaves nothing", d.p);
  return {d.seed, ref::dropout_threshold(d.p), static_cast<float>(ref::dropout_scale(d.p))};
}

// fn(row) for every row; a block of rows is worth a few microseconds.
template <class F>
void by_rows(int64_t rows, int64_t cols, F&& fn) {
  parallel_for(rows, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, cols)),
               [&](int64_t lo, int64_t hi) {
                 for (int64_t r = lo; r < hi; ++r) fn(r);
               });
}

}  // namespace sutor::cpu
