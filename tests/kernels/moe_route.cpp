// Routing against engine/ref/moe_route.h and complex step: softmax and sigmoid, bias, groups, ties,
// K = E; sort_by_expert.
#include "engine/ref/moe_route.h"

#include "tests/testing.h"

using namespace sutor;
using namespace sutor::test;

namespace {

Ctx ctx = cpu_context(Compute::kF32);

struct Problem {
  const char* name;
  int64_t T, E;
  RouteOptions opt;
  bool bias = false;
};

const Problem kProblems[] = {
    {"one expert", 3, 1, {}},
    {"one token", 1, 5, {.top_k = 2}},
    {"DeepSeek-V2-Lite", 9, 64, {.top_k = 6}},
    {"all experts", 4, 7, {.top_k = 7, .normalize = true, .scale = 2.5f}},
    {"Mixtral", 5, 8, {.top_k = 2, .normalize = true}},
    {"DeepSeek-V2", 6, 40, {.top_k = 6, .scale = 16.0f, .n_group = 8, .topk_group = 3}},
    {"DeepSeek-V3",
     6,
     32,
     {.top_k = 8,
      .score = RouteScore::kSigmoid,
      .normalize = true,
      .scale = 2.5f,
      .n_group = 8,
      .topk_group = 4,
      .group_score = GroupScore::kTop2Sum},
     true},
    {"sigmoid, not normalised", 4, 13, {.top_k = 3, .score = RouteScore::kSigmoid}, true},
    {"groups of one",
     4,
     6,
     {.top_k = 2, .n_group = 6, .topk_group = 3, .group_score = GroupScore::kTop2Sum}},
    {"all groups", 4, 8, {.top_k = 3, .n_group = 4, .topk_group = 4}},
};

struct Routed {
  Tensor probs, weight, expert;
  Routed(const Tensor& logits, const Tensor& bias, const RouteOptions& opt)
      : probs(empty(logits.shape)),
        weight(empty({logits.rows(), opt.top_k})),
        expert(empty({logits.rows(), opt.top_k}, DType::I32)) {
    cpu::moe_route_fwd(ctx, probs, weight, expert, logits, bias, opt);
  }
  std::vector<int32_t> ids() const { return {expert.i32(), expert.i32() + expert.numel()}; }
};

Tensor from(Shape shape, std::vector<float> v) {
  Tensor t = empty(std::move(shape));
  std::copy(v.begin(), v.end(), t.f32());
  return t;
}

}  // namespace

TEST_CASE("moe_route_fwd: equal to the specification") {
  for (const Problem& p : kProblems)
    for (int64_t pad : {0, 3})
      for (double range : {0.1, 3.0, 60.0}) {
        CAPTURE(p.name);
        CAPTURE(pad);
        CAPTURE(range);
        Tensor logits = random({p.T, p.E}, 1, range, DType::F32, pad),
               bias = p.bias ? random({p.E}, 2, 0.3) : Tensor{};
        Routed got(logits, bias, p.opt);
        Doubles probs(p.T * p.E), weight(p.T * p.opt.top_k), l = dense(logits), b = dense(bias);
        std::vector<int32_t> expert(weight.size());
        ref::moe_route_fwd(probs.data(), weight.data(), expert.data(), l.data(), ptr(b), p.T, p.E,
                           p.opt);
        CHECK(near(dense(got.probs), probs, 1e-6));
        if (range == 60.0)
          continue;  // f32 probabilities may underflow to equal ones: other ties than in double
        CHECK(got.ids() == expert);
        CHECK(near(dense(got.weight), weight, 1e-6));
      }
}

TEST_CASE("moe_route_bwd: equal to complex step through weights and probabilities") {
  for (const Problem& p : kProblems) {
    CAPTURE(p.name);
    int64_t K = p.opt.top_k;
    Tensor logits = random({p.T, p.E}, 1, 3, DType::F32, 2),
           bias = p.bias ? random({p.E}, 2, 0.3) : Tensor{};
    Routed r(logits, bias, p.opt);
    Tensor dweight = random({p.T, K}, 3), dprobs = random({p.T, p.E}, 4, 1, DType::F32, 1);
    for (int use = 1; use <= 3; ++use) {
      CAPTURE(use);
      Doubles seed = dense(dweight), probs_seed = dense(dprobs);
      for (double& s : seed) s *= use & 1;
      for (double s : probs_seed) seed.push_back(s * (use >> 1));
      Doubles grad = complex_step(dense(logits), seed, [&](auto& z) {
        std::vector<Complex> probs(p.T * p.E), out(p.T * K), b = dense<Complex>(bias);
        std::vector<int32_t> expert(p.T * K);
        ref::moe_route_fwd(probs.data(), out.data(), expert.data(), z.data(), ptr(b), p.T, p.E,
                           p.opt);
        out.insert(out.end(), probs.begin(), probs.end());
        return out;
      });
      Tensor dl = random({p.T, p.E}, 5, 1, DType::F32, 3);
      Doubles want = sum(dense(dl), grad);
      cpu::moe_route_bwd(ctx, dl, use & 1 ? dweight : Tensor{}, use & 2 ? dprobs : Tensor{},
                         r.probs, r.weight, r.expert, p.opt);
      CHECK(near(dense(dl), want));
      Doubles of_ref(p.T * p.E), ps = dense(r.probs), dw = dense(dweight), dp = dense(dprobs);
      ref::moe_route_bwd(of_ref.data(), use & 1 ? dw.data() : nullptr,
                         use & 2 ? dp.data() : nullptr, ps.data(), r.expert.i32(), p.T, p.E, p.opt);
      CHECK(near(of_ref, grad));
    }
  }
}

TEST_CASE("moe_route_fwd: ties go to the lower id, in experts and in groups") {
  Tensor even = zeros({1, 12});
  CHECK(Routed(even, {}, {.top_k = 4}).ids() == std::vector<int32_t>{0, 1, 2, 3});
  CHECK(Routed(from({1, 6}, {1, 3, 2, 3, 0, 3}), {}, {.top_k = 4}).ids() ==
        std::vector<int32_t>{1, 3, 5, 2});
  // Groups of 3: {0..2} and {6..8} tie as the best, {9..11} comes after them.
  Tensor l = from({1, 12}, {5, 0, 0, 1, 1, 1, 0, 5, 0, 0, 0, 5});
  CHECK(Routed(l, {}, {.top_k = 3, .n_group = 4, .topk_group = 2}).ids() ==
        std::vector<int32_t>{0, 7, 1});
}

TEST_CASE("moe_route_fwd: groups are rated by their best (V2) or their two best (V3)") {
  // Group 0 has the best expert, group 1 the best pair.
  Tensor l = from({1, 4}, {3, -9, 2, 2});
  RouteOptions opt{.top_k = 1, .score = RouteScore::kSigmoid, .n_group = 2, .topk_group = 1};
  CHECK(Routed(l, {}, opt).ids() == std::vector<int32_t>{0});
  opt.group_score = GroupScore::kTop2Sum;
  CHECK(Routed(l, {}, opt).ids() == std::vector<int32_t>{2});
}

TEST_CASE("moe_route_fwd: the bias chooses and does not weigh") {
  Tensor l = from({1, 3}, {2, 1, 0}), bias = from({3}, {0, 0, 10});
  Routed r(l, bias, {.top_k = 2, .score = RouteScore::kSigmoid});
  CHECK(r.ids() == std::vector<int32_t>{2, 0});
  CHECK(near(dense(r.weight), {0.5, 1 / (1 + std::exp(-2.0))}, 1e-6));
}

TEST_CASE(
    "moe_route_fwd: NaN logits still name k different experts; options that do not fit are "
    "refused") {
  Tensor l = from({1, 4}, {NAN, NAN, NAN, NAN});
  CHECK(Routed(l, {}, {.top_k = 3}).ids() == std::vector<int32_t>{0, 1, 2});
  Tensor e = zeros({1, 4});
  CHECK_THROWS_AS(Routed(e, {}, {.top_k = 5}), Error);
  CHECK_THROWS_AS(Routed(e, {}, {.top_k = 3, .n_group = 2, .topk_group = 1}), Error);
  CHECK_THROWS_AS(Routed(e, {}, {.top_k = 1, .n_group = 3, .topk_group = 1}), Error);
  CHECK_THROWS_AS(Routed(e, {}, {.top_k = 1, .n_group = 2, .topk_group = 3}), Error);
}

TEST_CASE("moe_route: the same bits for every thread count and instruction set") {
  Tensor logits = random({501, 64}, 1, 3), dweight = random({501, 6}, 2);
  RouteOptions opt{.top_k = 6, .normalize = true, .n_group = 8, .topk_group = 3};
  check_bitwise([&] {
    Routed r(logits, {}, opt);
    Tensor dl = zeros({501, 64});
    cpu::moe_route_bwd(ctx, dl, dweight, {}, r.probs, r.weight, r.expert, opt);
    return std::vector{r.probs, r.weight, r.expert, dl};
  });
}

TEST_CASE("sort_by_expert: stable, with its inverse; empty experts have empty ranges") {
  MoeIndex ix = sort_by_expert(ints({4, 2}, {2, 0, 0, 2, 2, 4, 0, 2}), 6);
  CHECK(ix.top_k == 2);
  CHECK(ix.offset == std::vector<int32_t>{0, 3, 3, 7, 7, 8, 8});
  CHECK(ix.pair == std::vector<int32_t>{1, 2, 6, 0, 3, 4, 7, 5});
  for (int32_t i = 0; i < 8; ++i) CHECK(ix.where[ix.pair[i]] == i);
  CHECK(sort_by_expert(empty({0, 2}, DType::I32), 3).offset == std::vector<int32_t>(4, 0));
  CHECK_THROWS_AS(sort_by_expert(ints({1, 1}, {6}), 6), Error);
  CHECK_THROWS_AS(sort_by_expert(ints({1, 1}, {-1}), 6), Error);
}
