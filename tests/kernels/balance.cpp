// Balance losses against engine/ref/balance.h, their gradients against complex step: sequence-wise,
// normalised sigmoid scores (V3), Switch-type over layers with padding.
#include "engine/ref/balance.h"

#include "engine/ops.h"
#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {

constexpr int64_t T = 11, E = 7;

struct Layer {
  Param logits;
  explicit Layer(uint64_t seed) {
    logits.name = "logits";
    logits.value = random({T, E}, seed, 2.5);
    logits.grad = zeros({T, E});
    logits.trainable = true;
  }
};

// Probabilities of the router in S, and what it chose (from the real parts).
template <class S>
std::vector<S> probs_of(const std::vector<S>& logits, std::vector<int32_t>& expert,
                        const RouteOptions& opt, std::vector<S> bias = {}) {
  std::vector<S> probs(T * E), weight(T * opt.top_k);
  expert.resize(T * opt.top_k);
  ref::moe_route_fwd(probs.data(), weight.data(), expert.data(), logits.data(), ptr(bias), T, E,
                     opt);
  return probs;
}

}  // namespace

TEST_CASE("balance: the sequence-wise loss and its gradient, also of normalised sigmoid scores") {
  Ctx ctx = cpu_context(Compute::kF32);
  for (bool sigmoid : {false, true})
    for (std::vector<int32_t> rows : {std::vector<int32_t>{0, 11}, {0, 4, 5, 11}}) {
      CAPTURE(sigmoid);
      RouteOptions opt{.top_k = 3};
      if (sigmoid) opt.score = RouteScore::kSigmoid;
      Layer l(3);
      Tensor bias = sigmoid ? random({E}, 9, 1.0) : Tensor{};
      Tape tape(ctx, true);
      Var loss = moe_balance_loss(moe_route(tape.param(l.logits), bias, opt), rows, sigmoid);
      tape.backward({{loss, 0.7f}});
      std::vector<int32_t> expert;
      Doubles p = probs_of(dense(l.logits.value), expert, opt, dense(bias));
      double want = ref::sequence_balance(p.data(), expert.data(), rows, E, 3, sigmoid);
      CHECK(loss.value.f32()[0] == doctest::Approx(want).epsilon(1e-5));
      Doubles grad = complex_step(dense(l.logits.value), {0.7}, [&](auto& z) {
        std::vector<int32_t> ids;
        auto q = probs_of(z, ids, opt, dense<Complex>(bias));
        return std::vector<Complex>{
            ref::sequence_balance(q.data(), ids.data(), rows, E, 3, sigmoid)};
      });
      CHECK(near(dense(l.logits.grad), grad));
    }
}

TEST_CASE("balance: the Switch-type loss joins all layers and leaves padding out") {
  Ctx ctx = cpu_context(Compute::kF32);
  RouteOptions opt{.top_k = 2, .normalize = true};
  for (bool padded : {false, true}) {
    CAPTURE(padded);
    Tensor real = padded ? ints({T}, {0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1}) : Tensor{};
    Layer a(1), b(2);
    Tape tape(ctx, true);
    std::vector<Var> loads;
    for (Layer* l : {&a, &b})
      loads.push_back(moe_load(moe_route(tape.param(l->logits), {}, opt), real));
    Var loss = switch_balance_loss(loads, opt.top_k);
    tape.backward({{loss, 1.3f}});
    auto reference = [&](auto& z) {  // both layers' logits
      using S = std::decay_t<decltype(z[0])>;
      std::vector<int32_t> ia, ib;
      auto pa = probs_of(std::vector<S>(z.begin(), z.begin() + T * E), ia, opt);
      auto pb = probs_of(std::vector<S>(z.begin() + T * E, z.end()), ib, opt);
      return std::vector<S>{ref::switch_balance<S>({pa.data(), pb.data()}, {ia.data(), ib.data()},
                                                   real ? real.i32() : nullptr, T, E, opt.top_k)};
    };
    Doubles both = dense(a.logits.value), more = dense(b.logits.value);
    both.insert(both.end(), more.begin(), more.end());
    CHECK(loss.value.f32()[0] == doctest::Approx(reference(both)[0]).epsilon(1e-5));
    Doubles grad = complex_step(both, {1.3}, reference), got = dense(a.logits.grad);
    Doubles of_b = dense(b.logits.grad);
    got.insert(got.end(), of_b.begin(), of_b.end());
    CHECK(near(got, grad));
  }
}

TEST_CASE("balance: the sequence-wise loss of thousands of tokens in one row") {
  Ctx ctx = cpu_context(Compute::kF32);
  RouteOptions opt{.top_k = 2};
  for (int64_t n : {8000, 20000}) {
    CAPTURE(n);
    Param logits;
    logits.name = "logits";
    logits.value = zeros({n, 3});  // experts 0 and 1, always
    for (int64_t t = 0; t < n; ++t) logits.value.row(t)[2] = -1 - static_cast<float>(t % 5);
    logits.grad = zeros({n, 3});
    logits.trainable = true;
    Tape tape(ctx, true);
    Routing r = moe_route(tape.param(logits), {}, opt);
    Doubles p = dense(r.probs.value);
    std::vector<int32_t> expert(r.expert.i32(), r.expert.i32() + 2 * n);
    std::vector<int32_t> rows{0, static_cast<int32_t>(n)};
    Var loss = moe_balance_loss(r, rows, false);
    double want = ref::sequence_balance(p.data(), expert.data(), rows, 3, 2, false);
    CHECK(std::abs(loss.value.f32()[0] / want - 1) < 1e-6);
  }
}

TEST_CASE("testing: a NaN is no small error") {
  Tensor a = random({2, 3}, 1), b = clone(a);
  CHECK(relative_max(a, b) == 0);
  b.f32()[4] = NAN;
  CHECK(std::isinf(relative_max(a, b)));
  CHECK(std::isinf(relative_max(b, a)));
  CHECK(std::isinf(relative_max(b, b)));
  CHECK(std::isinf(relative_max(a, a.slice(0, 1))));
}
