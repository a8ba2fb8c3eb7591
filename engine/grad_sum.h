#pragma once
// The step's gradient from its micro-batches', on any number of ranks, with the same bits.
//
// The rule: each micro-batch's gradient is computed by itself, from zero; the step's is their sum
// in order of micro-batch, ((g0 + g1) + g2) + ... Micro-batch a is rank a % R's, in wave a / R.
// After a wave each rank gets, of the elements that it updates, all gradients of the wave, and adds
// them up in that order. It then updates those elements, whose optimiser state it alone has
// (ZeRO-1), and the new values go to everyone.
//
// Elements are shared out in blocks of kNormBlock of a parameter, of which the gradient's norm is
// made, so that has the same bits too. docs/reproducibility.md says what this costs.
// Test: tests/ranks.cpp.

#include "engine/param.h"
#include "engine/ranks.h"

namespace sutor {

struct Piece {
  int param;       // of those that train, in order
  int64_t lo, hi;  // elements
  int rank;        // of the world, that updates them
};
// Who updates what: parameters that every rank has (owner -1) among all ranks, those of the ranks
// at position `owner` among these. Pieces in order of parameter and element.
struct TrainedSize {
  int64_t elements;
  int owner;
};
std::vector<Piece> share_out(const std::vector<TrainedSize>& params, int ranks, int ep);

class GradSum {
 public:
  // Decides who updates what (Param::lo, hi); prepare_training() comes after it. On one rank the
  // order does not matter. With several micro-batches, or ranks, a sum apart from the micro-batch's
  // gradient is kept: 4 bytes for each element that this rank updates.
  GradSum(const Ranks& ranks, ParamStore& store, int64_t micro_batches);

  // Adds the gradients of micro-batches wave * R ... of the step to its sum.
  void add(Ctx& ctx, int64_t wave);
  double norm() const;
  void share_values() const;  // after the update

  // Bytes that this rank sends per step, by the formula: per wave the elements that others update,
  // in F32, once for each gradient that it has; then its updated values to all who hold them.
  int64_t bytes_by_formula() const;

 private:
  struct Range {
    int64_t lo = 0, hi = 0;  // floats of a gradient slab
    int64_t byte_lo = 0, byte_hi = 0;
  };
  struct Set {  // a slab and the ranks that have it
    const Slab* slab;
    Comm comm;
    std::vector<Range> range;  // of each rank of comm
    Tensor received;
  };
  void add(Ctx& ctx, Set& set, bool experts, int64_t wave);
  bool apart() const { return micro_batches_ > 1 || !ranks_.alone(); }
  void prepare();

  Ranks ranks_;
  ParamStore& store_;
  int64_t micro_batches_;
  std::vector<Param*> params_;
  std::vector<Piece> pieces_;
  std::vector<Set> sets_;
};

}  // namespace sutor
