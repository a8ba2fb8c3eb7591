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

void Tape::backward(const std::vector<Var>& outs, const std::vector<Tensor>& douts) {
  for (size_t i = 0; i < outs.size(); ++i)
    if (outs[i].grad && douts[i]) ctx.k->accumulate(ctx, outs[i].grad(), douts[i], 1.0f);
  run();
}

std::vector<Var> checkpoint(const Var& x, const Block& block) {
  Tape& tape = *x.tape;
  if (!tape.recording()) return block(x);
  Tape probe(tape.ctx, false);
  std::vector<Var> outs = block(probe.constant(x.value));
  // A frozen x must not cut the block off: it records whenever something inside it trains.
  if (!x.grad && !probe.saw_trainable()) {
    for (Var& v : outs) v = tape.constant(v.value);
    return outs;
  }
  Var anchor = tape.leaf(Tensor{});
  // One closure recomputes, the first output's, recorded first and so run last: the other outputs
  // put their gradients aside and make sure that it runs.
  auto douts = std::make_shared<std::vector<Tensor>>(outs.size());
  auto again = [&ctx = tape.ctx, value = x.value, dx = x.grad, block, douts](const Tensor& dy) {
    (*douts)[0] = dy;
    Tape inner(ctx, true);
    Var in = dx ? inner.leaf(value) : inner.constant(value);
    if (dx) in.grad.slot->value = dx();  // accumulate straight into the outer gradient
    inner.backward(block(in), *douts);
  };
  outs[0] = tape.record(outs[0].value, {x.grad, anchor.grad}, again);
  for (size_t i = 1; i < outs.size(); ++i)
    outs[i] = tape.record(outs[i].value, {anchor.grad},
                          [douts, i, first = outs[0].grad](const Tensor& dy) {
                            (*douts)[i] = dy;
                            first();
                          });
  return outs;
}

}  // namespace sutor
