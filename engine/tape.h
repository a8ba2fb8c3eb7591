#pragma once
// The tape records one closure per differentiable op, in execution order; backward is a reverse
// loop over them.
//
// A closure's capture list is exactly what its op keeps alive for backward ([=] is not used). An op
// none of whose inputs needs a gradient records nothing, so layers below the first trainable weight
// free their activations as they go.

#include <functional>
#include <initializer_list>
#include <memory>
#include <vector>

#include "engine/backend.h"
#include "engine/param.h"

namespace sutor {

// Where a value's gradient accumulates: allocated (zeros) at the first touch, or a window of
// another value's gradient.
struct GradSlot {
  Shape shape;
  Tensor value;
  std::shared_ptr<GradSlot> parent;
  std::function<Tensor(const Tensor&)> window;
  Tensor get();
};

// Handle to a slot; calling it gives the tensor to accumulate into, or an empty one when no
// gradient is wanted.
struct Grad {
  std::shared_ptr<GradSlot> slot;
  explicit operator bool() const { return slot != nullptr; }
  Tensor operator()() const { return slot ? slot->get() : Tensor{}; }
};

class Tape;
struct Var {
  Tape* tape = nullptr;
  Tensor value;
  Grad grad;
};

using Backward = std::function<void(const Tensor& dy)>;

class Tape {
 public:
  // recording == false: inference; no node is kept and no value gets a gradient.
  explicit Tape(Ctx& ctx, bool recording) : ctx(ctx), recording_(recording) {}
  Ctx& ctx;

  bool recording() const { return recording_; }
  Var constant(Tensor value) { return {this, std::move(value), {}}; }
  Var leaf(Tensor value);     // a value whose gradient is wanted (when recording)
  Var param(const Param& p);  // its gradient goes to p.grad when p is trainable
  Var record(Tensor out, std::initializer_list<Grad> inputs,
             Backward fn);  // no input wants a gradient: a plain value
  Var window(const Var& x,
             std::function<Tensor(const Tensor&)> fn);  // a view; its gradient is the same view

  // Seeds each scalar's gradient with its weight, then runs the closures in reverse, freeing as it
  // goes.
  void backward(const std::vector<std::pair<Var, float>>& seeds);
  void backward(const std::vector<Var>& outs,
                const std::vector<Tensor>& douts);  // the same for values of any shape; empty: none

  bool saw_trainable() const { return saw_trainable_; }
  void note_trainable() { saw_trainable_ = true; }  // for ops that take parameters by table

 private:
  struct Node {
    Grad out;
    Backward fn;
  };
  void run();
  std::vector<Node> nodes_;
  bool recording_;
  bool saw_trainable_ = false;
};

// Runs `block` without keeping its activations and again during backward; bitwise equal to running
// it plainly. A block has one or more outputs (hidden states, then perhaps a balance loss).
using Block = std::function<std::vector<Var>(const Var&)>;
std::vector<Var> checkpoint(const Var& x, const Block& block);

}  // namespace sutor
