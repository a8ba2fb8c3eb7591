#include "engine/tape.h"

namespace sutor {

Tensor GradSlot::get() {
  if (parent) return window(parent->get());
  if (!value) value = zeros(shape);
  return value;
}

Var Tape::leaf(Tensor value) {
  Var v{this, std::move(value), {}};
  if (recording_)
    v.grad.slot = std::make_shared<GradSlot>(GradSlot{v.value.shape, {}, nullptr, nullptr});
  return v;
}

Var Tape::param(const Param& p) {
  Var v{this, p.value, {}};
  if (p.trainable) saw_trainable_ = true;
  if (recording_ && p.trainable)
    v.grad.slot = std::make_shared<GradSlot>(GradSlot{p.value.shape, p.grad, nullptr, nullptr});
  return v;
}

Var Tape::record(Tensor out, std::initializer_list<Grad> inputs, Backward fn) {
  bool wanted = false;
  for (const Grad& g : inputs) wanted |= static_cast<bool>(g);
  if (!recording_ || !wanted) return constant(std::move(out));
  Var v = leaf(std::move(out));
  nodes_.push_back({v.grad, std::move(fn)});
  return v;
}

Var Tape::window(const Var& x, std::function<Tensor(const Tensor&)> fn) {
  Var v{this, fn(x.value), {}};
  if (x.grad)
    v.grad.slot =
        std::make_shared<GradSlot>(GradSlot{v.value.shape, {}, x.grad.slot, std::move(fn)});
  return v;
}

void Tape::run() {
  while (!nodes_.empty()) {
    Node node = std::move(nodes_.back());
    nodes_.pop_back();
    if (!node.out.slot->value) continue;  // nothing downstream used it
    Tensor dy = std::move(node.out.slot->value);
    node.out.slot->value = {};
    node.fn(dy);
  }
}

void Tape::backward(const std::vector<std::pair<Var, float>>& seeds) {
  for (const auto& [v, weight] : seeds)
    if (v.grad) v.grad().f32()[0] += weight;
  run();
}

void Tape::backward(const Var& out, const Tensor& dout) {
  if (!out.grad) return;
  ctx.k->accumulate(ctx, out.grad(), dout, 1.0f);
  run();
}

Var checkpoint(const Var& x, const std::function<Var(const Var&)>& block) {
  Tape& tape = *x.tape;
  if (!tape.recording()) return block(x);
  Tape probe(tape.ctx, false);
  Var out = block(probe.constant(x.value));
  // A frozen x must not cut the block off: it records whenever something inside it trains.
  if (!x.grad && !probe.saw_trainable()) return tape.constant(out.value);
  Var anchor = tape.leaf(Tensor{});
  return tape.record(out.value, {x.grad, anchor.grad},
                     [&ctx = tape.ctx, value = x.value, dx = x.grad, block](const Tensor& dy) {
                       Tape inner(ctx, true);
                       Var again = dx ? inner.leaf(value) : inner.constant(value);
                       if (dx)
                         again.grad.slot->value =
                             dx();  // accumulate straight into the outer gradient
                       inner.backward(block(again), dy);
                     });
}

}  // namespace sutor
