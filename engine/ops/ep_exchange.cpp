// moe_ffn over ranks that share a layer's experts. Dispatch and combine are each other's
// transposes:
//
//   forward   x rows -> owners (one row per token and owner, with its pairs and gate weights);
//             expert outputs -> tokens (one row per pair: the sum over a token's experts is made
//             where the token is, in the order of one rank);
//   backward  dy rows -> owners (one per token and owner); dx and dweight -> tokens (one per pair).
//
// An owner works on each rank's tokens by itself: expert by expert these are the tokens of that
// rank's micro-batch, in its order, so results and weight gradients have the bits of one rank that
// does the micro-batches one after the other. Ranks without tokens take part with empty messages.
// No token is dropped. What is sent when depends on shapes and on what trains anywhere, not on who
// has a trained expert. Test: tests/ranks.cpp.
#include <algorithm>
#include <cstring>

#include "engine/expert_ranks.h"
#include "engine/ops.h"

namespace sutor {
namespace {

struct Pair {
  int32_t row;  // of those sent
  int32_t expert;
  float weight;
};

Tensor indices(const std::vector<int32_t>& v) {
  Tensor t = empty({static_cast<int64_t>(v.size())}, DType::I32);
  std::copy(v.begin(), v.end(), t.i32());
  return t;
}

Tensor gathered(Ctx& ctx, const Tensor& x, const Tensor& idx) {
  Tensor y = empty({idx.numel(), x.cols()});
  if (idx.numel() > 0) ctx.k->gather_fwd(ctx, y, x, idx);
  return y;
}

}  // namespace

struct ExpertCall {
  // One rank's tokens for the experts here.
  struct Source {
    std::vector<Pair> pairs;
    Tensor rows;  // [n,H] as they came; kept for backward where an expert here may train
    Tensor row;   // I32 [P] row of each pair
    MoeIndex index;
    Tensor weight;    // [P,1]
    Tensor gate, up;  // [P,I] kept for backward
    Tensor dy;        // [n,H]
  };

  Ctx& ctx;
  const ExpertBank& bank;
  const ExpertRanks& ranks;
  bool keep;         // for backward
  Grad dx, dweight;  // what backward is to give
  Tensor weight;     // [T,K]
  Tensor where;      // I32 [T,K] place of a pair among those of all owners, owner by owner
  std::vector<int64_t> pairs_before;          // [ranks+1] in that order
  std::vector<Tensor> sent;                   // [ranks] I32: tokens that went there
  std::vector<std::vector<Pair>> pairs_sent;  // [ranks]
  std::vector<Tensor> rows_sent;              // [ranks] until they have arrived
  std::vector<Source> from;                   // [ranks]
  Comm::Pending pending;
  int64_t hidden = 0;

  ExpertCall(Ctx& c, const ExpertBank& b, bool keep)
      : ctx(c), bank(b), ranks(*b.ranks), keep(keep) {}
  int me() const { return ranks.comm.rank(); }
  int size() const { return ranks.comm.size(); }
  int64_t count(int r) const { return pairs_before[r + 1] - pairs_before[r]; }

  // This rank's own tokens first: they need not travel.
  template <class F>
  void each_source(F&& fn) {
    for (int i = 0; i < size(); ++i) fn((me() + i) % size());
  }

  // Who gets which rows of x, and where each pair's result will lie.
  void plan(const Tensor& expert, const Tensor& weights) {
    const int64_t T = expert.rows(), K = expert.cols();
    weight = weights;
    where = empty({T, K}, DType::I32);
    pairs_sent.resize(size());
    std::vector<std::vector<int32_t>> tokens(size());
    for (int64_t t = 0; t < T; ++t)
      for (int64_t k = 0; k < K; ++k) {
        const int32_t e = expert.i32()[t * K + k];
        check(e >= 0 && e < static_cast<int32_t>(ranks.owner.size()), "expert {} of {}", e,
              ranks.owner.size());
        const int r = ranks.owner[e];
        if (tokens[r].empty() || tokens[r].back() != t)
          tokens[r].push_back(static_cast<int32_t>(t));
        where.i32()[t * K + k] = static_cast<int32_t>(pairs_sent[r].size());
        pairs_sent[r].push_back({static_cast<int32_t>(tokens[r].size() - 1), e, weights.row(t)[k]});
      }
    pairs_before.assign(size() + 1, 0);
    for (int r = 0; r < size(); ++r) {
      pairs_before[r + 1] = pairs_before[r] + static_cast<int64_t>(pairs_sent[r].size());
      sent.push_back(indices(tokens[r]));
    }
    for (int64_t i = 0; i < T * K; ++i)
      where.i32()[i] += static_cast<int32_t>(pairs_before[ranks.owner[expert.i32()[i]]]);
  }

  // Index and rows for the kernel, which sees a pair as a token of its own with one expert.
  void accept(Source& s) {
    std::vector<int32_t> row;
    Tensor expert = empty({static_cast<int64_t>(s.pairs.size()), 1}, DType::I32);
    s.weight = empty(expert.shape);
    for (size_t i = 0; i < s.pairs.size(); ++i) {
      row.push_back(s.pairs[i].row);
      expert.i32()[i] = s.pairs[i].expert;
      s.weight.f32()[i] = s.pairs[i].weight;
    }
    s.row = indices(row);
    s.index = sort_by_expert(expert, static_cast<int>(bank.gate.size()));
  }

  Tensor run(Source& s) {
    const int64_t pairs = s.row.numel(), I = bank.gate[0]->value.dim(0);
    Tensor y = empty({pairs, hidden}), ones = empty({pairs, 1});
    if (pairs == 0) return y;
    std::fill_n(ones.f32(), pairs, 1.0f);  // the gate weights come in where the token is
    if (keep) s.gate = empty({pairs, I}, kept_type(ctx.compute)), s.up = empty_like(s.gate);
    ctx.k->moe_ffn_fwd(ctx, y, s.gate, s.up, gathered(ctx, s.rows, s.row), ones, s.index,
                       bank.values());
    return y;
  }

  void dispatch(const Tensor& x) {
    hidden = x.cols();
    std::vector<int64_t> to(size());
    for (int r = 0; r < size(); ++r) to[r] = sent[r].numel() << 32 | count(r);
    const std::vector<int64_t> come = ranks.comm.all_to_all(to, "expert counts");
    from.resize(size());
    rows_sent.resize(size());
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
    for (int r = 0; r < size(); ++r) {
      rows_sent[r] = gathered(ctx, x, sent[r]);
      if (r == me()) {
        from[r].rows = rows_sent[r];
        from[r].pairs = pairs_sent[r];
        continue;
      }
      const int64_t rows = come[r] >> 32, pairs = come[r] & 0xffffffff;
      from[r].rows = empty({rows, hidden});
      from[r].pairs.resize(pairs);
      const auto size_of_pair = static_cast<int64_t>(sizeof(Pair));
      out.push_back({r, pairs_sent[r].data(), count(r) * size_of_pair});
      in.push_back({r, from[r].pairs.data(), pairs * size_of_pair});
      out.push_back({r, rows_sent[r].data, rows_sent[r].nbytes()});
      in.push_back({r, from[r].rows.data, from[r].rows.nbytes()});
    }
    pending = ranks.comm.start(out, in, "tokens to experts");
  }

  // Results for each source go back as they are ready; rows [pairs,H] receives this rank's own.
  template <class F>
  Tensor give_back(const char* what, F&& results) {
    Tensor rows = empty({pairs_before.back(), hidden});
    std::vector<Incoming> in;
    auto own = [&](int r) { return rows.slice(pairs_before[r], pairs_before[r + 1]); };
    for (int r = 0; r < size(); ++r)
      if (r != me()) in.push_back({r, own(r).data, own(r).nbytes()});
    Comm::Pending coming = ranks.comm.start({}, in, what);
    std::vector<Tensor> alive;  // outlives the transfers, which an error may cut short
    std::vector<Comm::Pending> going;
    each_source([&](int r) {
      if (r != me()) pending.wait();
      alive.push_back(results(from[r]));
      if (r == me())
        copy_into(own(r), alive.back());
      else
        going.push_back(
            ranks.comm.start({{r, alive.back().data, alive.back().nbytes()}}, {}, what));
    });
    coming.wait();
    for (auto& p : going) p.wait();
    return rows;
  }

  Tensor forward(bool trains) {
    Tensor rows = give_back("expert outputs", [&](Source& s) {
      accept(s);
      Tensor y = run(s);
      s.pairs = {};
      if (!keep || !trains) s.rows = {};
      return y;
    });
    rows_sent.clear();
    Tensor y = empty({where.rows(), hidden});
    ctx.k->moe_combine_fwd(ctx, y, rows, weight, where, false);
    return y;
  }

  void dispatch_gradient(const Tensor& dy) {
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
    rows_sent.resize(size());
    for (int r = 0; r < size(); ++r) {
      rows_sent[r] = gathered(ctx, dy, sent[r]);
      if (r == me()) {
        from[r].dy = rows_sent[r];
        continue;
      }
      // As many rows as came in forward: the last row of a pair tells.
      const int64_t pairs = from[r].row.numel(),
                    rows = pairs == 0 ? 0 : from[r].row.i32()[pairs - 1] + 1;
      from[r].dy = empty({rows, hidden});
      out.push_back({r, rows_sent[r].data, rows_sent[r].nbytes()});
      in.push_back({r, from[r].dy.data, from[r].dy.nbytes()});
    }
    pending = ranks.comm.start(out, in, "gradients to experts");
  }

  void backward() {
    Tensor dweight_rows = empty({pairs_before.back(), 1});
    std::vector<Tensor> dweights(size());
    auto derive = [&](Source& s) {
      const int64_t pairs = s.row.numel();
      const int r = static_cast<int>(&s - from.data());
      Tensor dxs = dx ? zeros({pairs, hidden}) : Tensor{};
      dweights[r] = dweight ? zeros({pairs, 1}) : Tensor{};
      if (pairs > 0) {
        ExpertWeights grads = bank.grads(r);
        ctx.k->moe_ffn_bwd(ctx, dxs, dweights[r], &grads, gathered(ctx, s.dy, s.row),
                           s.rows ? gathered(ctx, s.rows, s.row) : Tensor{}, s.weight, s.gate, s.up,
                           s.index, bank.values());
      }
      s = {};
      return dxs;
    };
    if (dx) {
      Tensor rows = give_back("gradients from experts", derive);
      ctx.k->moe_combine_fwd(ctx, dx(), rows, {}, where, true);
    } else {
      each_source([&](int r) {
        if (r != me()) pending.wait();
        derive(from[r]);
      });
      pending.wait();
    }
    rows_sent.clear();
    if (!dweight) return;
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
    for (int r = 0; r < size(); ++r) {
      Tensor own = dweight_rows.slice(pairs_before[r], pairs_before[r + 1]);
      if (r == me()) {
        copy_into(own, dweights[r]);
        continue;
      }
      out.push_back({r, dweights[r].data, dweights[r].nbytes()});
      in.push_back({r, own.data, own.nbytes()});
    }
    ranks.comm.exchange(out, in, "gradients from experts");
    Tensor dw = dweight();
    for (int64_t t = 0; t < where.rows(); ++t)
      for (int64_t k = 0; k < where.cols(); ++k)
        dw.row(t)[k] += dweight_rows.f32()[where.i32()[t * where.cols() + k]];
  }

  // Inference: every rank has these tokens. Each computes its experts' pairs and gives the results
  // to all.
  Tensor shared(const Tensor& x) {
    hidden = x.cols();
    Source s;
    s.rows = gathered(ctx, x, sent[me()]);
    s.pairs = pairs_sent[me()];
    accept(s);
    const Tensor mine = run(s);
    Tensor rows = empty({pairs_before.back(), hidden});
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
    for (int r = 0; r < size(); ++r) {
      Tensor own = rows.slice(pairs_before[r], pairs_before[r + 1]);
      if (r == me()) {
        copy_into(own, mine);
        continue;
      }
      out.push_back({r, mine.data, mine.nbytes()});
      in.push_back({r, own.data, own.nbytes()});
    }
    ranks.comm.exchange(out, in, "expert outputs");
    Tensor y = empty({where.rows(), hidden});
    ctx.k->moe_combine_fwd(ctx, y, rows, weight, where, false);
    return y;
  }
};

MoeFfnBegun moe_ffn_begin(const Var& x, const Routing& routing, const ExpertBank& bank) {
  if (!bank.ranks) return {moe_ffn(x, routing, bank), nullptr, {}};
  Tape& tape = *x.tape;
  check(!bank.any_lora(),
        "experts that carry LoRA are not shared among ranks: merge it first, or "
        "run without --ep");
  const bool trains = bank.any_trainable();
  if (trains) tape.note_trainable();
  const bool keep = tape.recording() && (trains || x.grad || routing.weight.grad);
  auto call = std::make_shared<ExpertCall>(tape.ctx, bank, keep);
  call->plan(routing.expert, routing.weight.value);
  if (bank.ranks->same_tokens) {
    check(!tape.recording(), "ranks with the same tokens do not train");
    return {tape.constant(call->shared(x.value)), nullptr, {}};
  }
  call->dispatch(x.value);
  if (!keep) return {{}, call, tape.constant({})};
  call->dx = x.grad;
  call->dweight = routing.weight.grad;
  Var anchor = trains ? tape.leaf(Tensor{}) : Var{};
  Var sent = tape.record(Tensor{}, {anchor.grad, x.grad, routing.weight.grad},
                         [call](const Tensor&) { call->backward(); });
  return {{}, call, sent};
}

Var moe_ffn_end(const MoeFfnBegun& begun) {
  if (!begun.call) return begun.y;
  Tape& tape = *begun.sent.tape;
  Tensor y = begun.call->forward(begun.call->bank.any_trainable());
  return tape.record(y, {begun.sent.grad},
                     [call = begun.call, sent = begun.sent.grad](const Tensor& dy) {
                       call->dispatch_gradient(dy);
                       sent();  // its closure, before which others may run, does the rest
                     });
}

}  // namespace sutor
