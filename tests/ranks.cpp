// Training on several ranks equals training on one, bit by bit: losses, norms, final weights; with
// replicas and with shared experts; checkpoints of one layout resumed under another. Ranks are
// threads here; tests/mpi.cpp starts processes.
#include "engine/ranks.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>

#include "engine/expert_ranks.h"
#include "engine/grad_sum.h"
#include "engine/ops.h"
#include "engine/parallel.h"
#include "io/safetensors.h"
#include "model/esft.h"
#include "model/placement.h"
#include "model/run_state.h"
#include "model/trainer.h"

using namespace sutor;

namespace {

const std::string kModel = "tests/goldens/esft_train/model";
constexpr double kTimeout = 60;

// Rows of other lengths, one of a single token, which no other predicts.
std::vector<TrainRow> some_rows() {
  std::vector<TrainRow> rows;
  uint64_t state = 7;
  for (int64_t n : {24, 7, 2, 31, 1, 19, 3, 16, 28, 5, 22, 9}) {
    TrainRow r;
    for (int64_t i = 0; i < n; ++i) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      r.ids.push_back(static_cast<int32_t>((state >> 33) % 60));
      r.labels.push_back(i % 3 == 0 && n > 2 ? -100 : r.ids.back());
    }
    rows.push_back(r);
  }
  return rows;
}

struct Setting {
  int ranks = 1, ep = 1;
  Compute compute = Compute::kBF16;
  bool recompute = false, adam8 = false;
  TrainOptions opt;
  std::vector<std::string> trained{"model.layers.1.mlp.experts.7.*",
                                   "model.layers.1.mlp.experts.2.*",
                                   "model.layers.2.mlp.experts.0.*"};
  std::optional<std::vector<std::vector<int>>> owner;  // else place_experts()
  bool first_experts = false;  // of layer 1 get every token: no router logit differs
  std::string save, resume;
};

Setting setting(int ranks, int ep) {
  Setting s;
  s.ranks = ranks;
  s.ep = ep;
  s.opt.steps = 3;
  s.opt.batch = 2;
  s.opt.grad_accum = 8;
  s.opt.lr = 1e-3;
  return s;
}

// What a run came to: bits of the losses and norms, bytes of the trained weights.
struct Outcome {
  std::vector<std::pair<double, double>> steps;
  std::map<std::string, std::string> weights;
  std::map<int, std::vector<int64_t>> load;
  std::vector<int64_t> gradient_bytes, by_formula;  // by rank, of the last step
  double eval = 0;
  bool operator==(const Outcome& o) const {
    return steps == o.steps && weights == o.weights && load == o.load && eval == o.eval;
  }
};

Outcome outcome_of(const Setting& s) {
  Outcome out;
  out.gradient_bytes.resize(s.ranks);
  out.by_formula.resize(s.ranks);
  std::mutex mutex;
  const std::vector<TrainRow> rows = some_rows();
  run_ranks_as_threads(s.ranks, kTimeout, [&](const Comm& comm) {
    const Ranks ranks = make_ranks(comm, s.ep);
    auto model = load_model(kModel);
    Ctx ctx = cpu_context(s.compute);
    for (const std::string& glob : s.trained) model->params.train(glob);
    if (s.first_experts) {
      Param& gate = model->params.at("model.layers.1.mlp.gate.weight");
      gate.value = cast(gate.value, DType::F32);
      for (int64_t e = 0; e < gate.value.dim(0); ++e)
        for (int64_t h = 0; h < gate.value.cols(); ++h)
          gate.value.row(e)[h] = 0;  // ties go to the lowest: the first experts get every token
    }
    model->recompute = s.recompute;
    if (s.ep > 1)
      model->share_experts(ranks.sharing,
                           s.owner ? *s.owner : place_experts(*model, s.ep, {}).owner, false);
    GradSum sum(ranks, model->params, s.opt.grad_accum);
    model->params.prepare_training(s.compute, {.moments_8bit = s.adam8, .sources = s.ep});
    const int64_t done = s.resume.empty() ? 0 : read_state(s.resume, *model, "run");
    train(ctx, *model, rows, s.opt, done,
          {[&](const StepLog& log) {
             std::lock_guard lock(mutex);
             if (comm.rank() == 0) {
               out.steps.emplace_back(log.loss, log.grad_norm);
               out.load = log.load;
             }
             out.gradient_bytes[comm.rank()] = log.gradient_bytes;
             out.by_formula[comm.rank()] = sum.bytes_by_formula();
             return true;
           },
           {},
           {}},
          ranks, sum);
    const double eval = evaluate_loss(ctx, *model, rows, 5, ranks);
    if (!s.save.empty())
      StateWriter(s.save, *model, s.opt.steps, "run", Json::object(), ranks, true).finish();
    std::lock_guard lock(mutex);
    for (Param* p : model->params.trained_here()) {
      const std::string bytes(reinterpret_cast<const char*>(p->value.data), p->value.nbytes());
      auto [at, fresh] = out.weights.emplace(p->name, bytes);
      CHECK(at->second == bytes);  // every rank that has it has the same
    }
    if (comm.rank() == 0) out.eval = eval;
    CHECK(eval == (out.eval == 0 ? eval : out.eval));
  });
  // What the lead writes in the end: everything that trained, wherever it was.
  run_ranks_as_threads(s.ranks, kTimeout, [&](const Comm& comm) {
    if (s.ep == 1) return;
    const Ranks ranks = make_ranks(comm, s.ep);
    auto model = load_model(kModel);
    for (const std::string& glob : s.trained) model->params.train(glob);
    model->share_experts(ranks.sharing, s.owner ? *s.owner : place_experts(*model, s.ep, {}).owner,
                         false);
    model->params.prepare_training(s.compute, {.sources = s.ep});
    for (Param* p : model->params.trained_here())
      std::memcpy(p->value.data, out.weights.at(p->name).data(), p->value.nbytes());
    gather_trained(*model, comm, s.compute);
    if (comm.rank() != 0) return;
    for (Param* p : model->params.trainable())
      CHECK(out.weights.at(p->name) ==
            std::string(reinterpret_cast<const char*>(p->value.data), p->value.nbytes()));
  });
  return out;
}

}  // namespace

TEST_CASE("ranks: replicas give the bits of one rank, for 1 to 8 of them") {
  for (Compute compute : {Compute::kF32, Compute::kBF16}) {
    Setting one = setting(1, 1);
    one.compute = compute;
    const Outcome want = outcome_of(one);
    CHECK(want.steps.size() == 3);
    for (int ranks : {2, 3, 4, 8}) {
      CAPTURE(ranks);
      Setting s = setting(ranks, 1);
      s.compute = compute;
      const Outcome got = outcome_of(s);
      CHECK(got == want);
      for (int r = 0; r < ranks; ++r) CHECK(got.gradient_bytes[r] == got.by_formula[r]);
    }
  }
}

TEST_CASE("ranks: shared experts give the bits of one rank, alone and with replicas") {
  for (Compute compute : {Compute::kF32, Compute::kBF16}) {
    Setting one = setting(1, 1);
    one.compute = compute;
    one.opt.aux_alpha = 0.01;
    const Outcome want = outcome_of(one);
    for (auto [ranks, ep] : {std::pair{2, 2}, {3, 3}, {4, 4}, {4, 2}, {5, 5}, {6, 3}, {8, 8}}) {
      CAPTURE(ranks);
      CAPTURE(ep);
      Setting s = setting(ranks, ep);
      s.compute = compute;
      s.opt.aux_alpha = 0.01;
      const Outcome got = outcome_of(s);
      CHECK(got == want);
      for (int r = 0; r < ranks; ++r) CHECK(got.gradient_bytes[r] == got.by_formula[r]);
    }
  }
}

TEST_CASE("ranks: with recomputation, means of means, attention and routers trained too") {
  Setting one = setting(1, 1);
  one.trained = {"model.layers.1.*", "model.norm.weight"};
  one.opt.mean = LossMean::kMeans;
  one.adam8 = true;
  const Outcome want = outcome_of(one);
  for (auto [ranks, ep] : {std::pair{3, 1}, {2, 2}, {4, 2}}) {
    CAPTURE(ranks);
    Setting s = one;
    s.ranks = ranks;
    s.ep = ep;
    s.recompute = true;
    CHECK(outcome_of(s) == want);
  }
}

TEST_CASE("ranks: an incomplete last wave, ranks without tokens, a micro-batch of one row") {
  for (int accum : {1, 2, 5}) {
    CAPTURE(accum);
    Setting one = setting(1, 1);
    one.opt.batch = accum == 1 ? 2 : 1;
    one.opt.grad_accum = accum;
    one.opt.steps = 6;  // rows of two tokens among them
    const Outcome want = outcome_of(one);
    for (auto [ranks, ep] : {std::pair{4, 1}, {3, 3}, {4, 2}}) {
      CAPTURE(ranks);
      Setting s = one;
      s.ranks = ranks;
      s.ep = ep;
      CHECK(outcome_of(s) == want);
    }
  }
}

TEST_CASE(
    "ranks: all trained experts on one rank, a rank with none, experts that get every token") {
  Setting one = setting(1, 1);
  one.first_experts = true;
  const Outcome want = outcome_of(one);
  auto model = load_model(kModel);
  const Config& c = model->config;
  // Rank 1 has the experts that train; rank 2 has one expert a layer, which does not.
  std::vector<std::vector<int>> owner(c.layers);
  for (int layer : c.moe_layers()) {
    owner[layer].assign(c.experts, 0);
    for (int e : {0, 2, 7}) owner[layer][e] = 1;
    owner[layer][5] = 2;
  }
  Setting s = one;
  s.ranks = s.ep = 3;
  s.owner = owner;
  CHECK(outcome_of(s) == want);
}

TEST_CASE(
    "ranks: tokens travel once for each owner, results once for each choice: bytes by the "
    "formula") {
  for (int ranks : {2, 3, 5}) {
    constexpr int64_t T = 37, H = 72, K = 4, E = 24;
    const int64_t layer = 1;
    run_ranks_as_threads(ranks, kTimeout, [&](const Comm& comm) {
      auto model = load_model(kModel);
      Ctx ctx = cpu_context(Compute::kF32);
      const Placement placed = place_experts(*model, ranks, {});
      const std::vector<int>& owner = placed.owner[layer];
      ExpertBank bank;
      for (int e = 0; e < E; ++e) {
        const std::string name = fmt::format("model.layers.1.mlp.experts.{}.", e);
        bank.gate.push_back(&model->params.at(name + "gate_proj.weight"));
        bank.up.push_back(&model->params.at(name + "up_proj.weight"));
        bank.down.push_back(&model->params.at(name + "down_proj.weight"));
      }
      bank.ranks = std::make_shared<const ExpertRanks>(ExpertRanks{comm, owner, false, nullptr});
      const int64_t mine = T + comm.rank() * 5;  // each has its own tokens
      Tensor x = zeros({mine, H}), expert = empty({mine, K}, DType::I32), weight = empty({mine, K});
      int64_t out_rows = 0, out_pairs = 0;
      std::vector<int64_t> pairs_of(ranks);
      for (int64_t t = 0; t < mine; ++t) {
        std::vector<bool> goes(ranks);
        for (int64_t k = 0; k < K; ++k) {
          const auto e = static_cast<int32_t>((t * 5 + k * 7 + comm.rank()) % E);
          expert.i32()[t * K + k] = e;
          weight.row(t)[k] = 0.25f;
          goes[owner[e]] = true;
          ++pairs_of[owner[e]];
        }
        for (int r = 0; r < ranks; ++r) out_rows += r != comm.rank() && goes[r];
      }
      for (int r = 0; r < ranks; ++r)
        if (r != comm.rank()) out_pairs += pairs_of[r];
      Tape tape(ctx, true);
      Var in = tape.leaf(x), w = tape.leaf(weight);
      MoeFfnBegun begun = moe_ffn_begin(in, {tape.constant({}), w, expert}, bank);
      Var y = moe_ffn_end(begun);
      Tensor dy = zeros({mine, H});
      tape.backward({y}, {dy});
      const auto& traffic = comm.traffic();
      // To each owner a token's row once, and 12 bytes for each of its choices there.
      CHECK(traffic.at("tokens to experts").bytes == out_rows * H * 4 + out_pairs * 12);
      CHECK(traffic.at("gradients to experts").bytes == out_rows * H * 4);
      // Back, a row for each choice that others had of the experts here; and its weight's gradient.
      std::vector<int64_t> came(ranks);
      came = comm.all_to_all(pairs_of, "pairs");
      int64_t back = 0;
      for (int r = 0; r < ranks; ++r)
        if (r != comm.rank()) back += came[r];
      CHECK(traffic.at("expert outputs").bytes == back * H * 4);
      CHECK(traffic.at("gradients from experts").bytes == back * (H + 1) * 4);
    });
  }
}

TEST_CASE("ranks: a checkpoint of any layout resumes under any other, bit by bit") {
  const std::string dir = "build/test-ranks-state";
  for (bool adam8 : {false, true}) {
    Setting whole = setting(1, 1);
    whole.opt.steps = 4;
    whole.adam8 = adam8;
    if (adam8) whole.compute = Compute::kF32;
    Outcome want = outcome_of(whole);
    want.steps.erase(want.steps.begin(), want.steps.begin() + 2);
    const std::pair<int, int> layouts[] = {{1, 1}, {2, 1}, {4, 1}, {2, 2}, {4, 4}, {4, 2}};
    for (auto [ranks, ep] : layouts) {
      Setting first = whole;
      first.ranks = ranks;
      first.ep = ep;
      first.opt.steps = 2;
      first.save = dir;
      outcome_of(first);
      StateFile(dir).verify();
      for (auto [to_ranks, to_ep] : layouts) {
        CAPTURE(ranks);
        CAPTURE(ep);
        CAPTURE(to_ranks);
        CAPTURE(to_ep);
        Setting second = whole;
        second.ranks = to_ranks;
        second.ep = to_ep;
        second.resume = dir;
        CHECK(outcome_of(second) == want);
      }
    }
  }
  std::filesystem::remove_all(dir);
}

TEST_CASE(
    "ranks: a checkpoint that cannot be written is an error on every rank, and nothing is left") {
  std::atomic<int> failed{0};
  run_ranks_as_threads(3, kTimeout, [&](const Comm& comm) {
    const Ranks ranks = make_ranks(comm, 1);
    auto model = load_model(kModel);
    model->params.train("model.layers.1.mlp.experts.7.*");
    GradSum sum(ranks, model->params, 3);
    model->params.prepare_training(Compute::kF32);
    try {
      StateWriter("build/no-such-folder/checkpoint-1", *model, 1, "run", Json::object(), ranks,
                  true)
          .finish();
    } catch (const PeerError&) {
    } catch (const Error& e) {
      failed += std::string(e.what()).find("not written") != std::string::npos;
    }
    comm.barrier("after");  // all are there still, and in step
  });
  CHECK(failed == 3);
  CHECK_FALSE(std::filesystem::exists("build/no-such-folder"));
}

TEST_CASE("ranks: shares of the update are whole blocks, even, and cover everything once") {
  for (int ranks : {1, 2, 3, 8})
    for (int ep : {1, 2, 4}) {
      if (ranks % ep != 0) continue;
      std::vector<TrainedSize> params{{5, -1},         {200000, -1},     {1000000, 0},
                                      {70000, ep - 1}, {300000, ep - 1}, {1, 0}};
      const std::vector<Piece> pieces = share_out(params, ranks, ep);
      std::vector<int64_t> end(params.size()), total(ranks);
      for (const Piece& p : pieces) {
        CHECK(p.lo == end[p.param]);
        CHECK(p.lo % kNormBlock == 0);
        CHECK(p.hi > p.lo);
        end[p.param] = p.hi;
        total[p.rank] += p.hi - p.lo;
        if (params[p.param].owner >= 0) CHECK(p.rank % ep == params[p.param].owner);
      }
      for (size_t i = 0; i < params.size(); ++i) CHECK(end[i] == params[i].elements);
      if (ep == 1)
        for (int64_t t : total) CHECK(std::abs(t - 1570006 / ranks) <= 2 * kNormBlock);
    }
}

TEST_CASE("ranks: experts are placed evenly by tokens and by what trains") {
  auto model = load_model(kModel);
  model->params.train("model.layers.1.mlp.experts.0.*");
  model->params.train("model.layers.1.mlp.experts.1.*");
  for (int ranks : {1, 2, 3, 5}) {
    const Placement p = place_experts(*model, ranks, {});
    for (int layer : model->config.moe_layers()) {
      std::vector<int64_t> count(ranks);
      for (int r : p.owner[layer]) ++count[r];
      for (int64_t n : count) CHECK(n <= (model->config.experts + ranks - 1) / ranks);
    }
    if (ranks > 1) CHECK(p.owner[1][0] != p.owner[1][1]);
  }
  // An expert with half of the tokens is nearly alone with its rank's share of the work.
  LayerScores tokens;
  for (int layer : model->config.moe_layers()) {
    tokens[layer].assign(model->config.experts,
                         0.5 / static_cast<double>(model->config.experts - 1));
    tokens[layer][3] = 0.5;
  }
  const Placement p = place_experts(*model, 2, tokens);
  for (double w : p.work) CHECK(w == doctest::Approx(0.5).epsilon(0.3));
  CHECK_THROWS_WITH_AS(place_experts(*model, 1000, {}), doctest::Contains("1000 ranks cannot"),
                       Error);
  tokens.begin()->second.pop_back();
  CHECK_THROWS_WITH_AS(place_experts(*model, 2, tokens), doctest::Contains("of another model"),
                       Error);
}
