#include "engine/grad_sum.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/optim.h"

namespace sutor {
namespace {

// At most so many floats of a gradient are under way from one rank to another at once.
constexpr int64_t kChunk = 1 << 20;

}  // namespace

std::vector<Piece> share_out(const std::vector<TrainedSize>& params, int ranks, int ep) {
  std::vector<Piece> out;
  for (int owner = -1; owner < ep; ++owner) {
    int64_t total = 0, done = 0;
    for (const TrainedSize& p : params)
      if (p.owner == owner) total += p.elements;
    const int among = owner < 0 ? ranks : ranks / ep;
    for (int i = 0; i < static_cast<int>(params.size()); ++i) {
      const TrainedSize& p = params[i];
      if (p.owner != owner) continue;
      for (int64_t lo = 0; lo < p.elements; lo += kNormBlock) {
        const int64_t hi = std::min(p.elements, lo + kNormBlock);
        // By the block's middle: shares are even to a block.
        const auto nth = static_cast<int>(std::min<int64_t>(
            among - 1, (done + (hi - lo) / 2) * among / std::max<int64_t>(1, total)));
        const int rank = owner < 0 ? nth : nth * ep + owner;
        done += hi - lo;
        if (!out.empty() && out.back().param == i && out.back().rank == rank)
          out.back().hi = hi;
        else
          out.push_back({i, lo, hi, rank});
      }
    }
  }
  std::stable_sort(out.begin(), out.end(), [](const Piece& a, const Piece& b) {
    return a.param != b.param ? a.param < b.param : a.lo < b.lo;
  });
  return out;
}

GradSum::GradSum(const Ranks& ranks, ParamStore& store, int64_t micro_batches)
    : ranks_(ranks), store_(store), micro_batches_(micro_batches), params_(store.trainable()) {
  std::vector<TrainedSize> sizes;
  for (const Param* p : params_) sizes.push_back({p->value.numel(), p->owner});
  pieces_ = share_out(sizes, ranks.world.size(), ranks.ep);
  for (Param* p : params_) p->lo = p->hi = 0;
  for (const Piece& p : pieces_) {
    if (p.rank != ranks.world.rank()) continue;
    params_[p.param]->lo = p.lo;
    params_[p.param]->hi = p.hi;
  }
}

void GradSum::prepare() {
  sets_.push_back({&store_.everywhere(), ranks_.world, {}, {}});
  sets_.push_back({&store_.experts(), ranks_.replicas, {}, {}});
  for (Set& set : sets_) {
    const Slab& slab = *set.slab;
    const bool experts = &set == &sets_[1];
    for (Param* p : slab.params)
      if (apart()) p->sum = zeros({p->hi - p->lo});
    set.range.resize(set.comm.size());
    std::vector<bool> any(set.comm.size());
    for (const Piece& p : pieces_) {
      const Param* param = params_[p.param];
      if ((param->owner >= 0) != experts || param->remote) continue;
      const int r = experts ? p.rank / ranks_.ep : p.rank;
      const size_t i =
          std::find(slab.params.begin(), slab.params.end(), param) - slab.params.begin();
      check(i < slab.params.size(), "{}: trains, but was not prepared for it", param->name);
      const int64_t size = size_of(param->value.dtype);
      Range& range = set.range[r];
      if (!any[r]) range = {slab.at[i] + p.lo, 0, slab.byte_at[i] + p.lo * size, 0};
      any[r] = true;
      range.hi = slab.at[i] + p.hi;
      range.byte_hi = slab.byte_at[i] + p.hi * size;
    }
  }
}

void GradSum::add(Ctx& ctx, int64_t wave) {
  if (sets_.empty()) prepare();
  if (!apart()) return;  // the sum is the gradient itself
  add(ctx, sets_[0], false, wave);
  add(ctx, sets_[1], true, wave);
}

void GradSum::add(Ctx& ctx, Set& set, bool experts, int64_t wave) {
  const Slab& slab = *set.slab;
  if (slab.params.empty()) return;
  const int me = set.comm.rank(), n = set.comm.size(), sources = slab.sources;
  // The gradient that rank r of this set has of its source j belongs to a micro-batch?
  auto there = [&](int r, int j) {
    const int64_t rank = experts ? int64_t{r} * ranks_.ep + j : r;
    return wave * ranks_.world.size() + rank < micro_batches_;
  };
  const Range own = set.range[me];
  int64_t longest = 0;
  for (const Range& r : set.range) longest = std::max(longest, r.hi - r.lo);
  const int64_t chunk = std::min(kChunk, longest);
  if (n > 1 && !set.received) set.received = empty({int64_t{n} * sources * chunk});

  for (int64_t from = 0; from < longest; from += chunk) {
    const int64_t mine = std::min(own.hi, own.lo + from + chunk) - (own.lo + from);
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
    auto place = [&](int r, int j) {
      return set.received.f32() + (int64_t{r} * sources + j) * chunk;
    };
    for (int r = 0; r < n; ++r)
      for (int j = 0; j < sources && r != me; ++j) {
        const Range& to = set.range[r];
        const int64_t theirs = std::min(to.hi, to.lo + from + chunk) - (to.lo + from);
        if (there(me, j) && theirs > 0)
          out.push_back({r, slab.grads.f32() + j * slab.stride + to.lo + from, theirs * 4});
        if (there(r, j) && mine > 0) in.push_back({r, place(r, j), mine * 4});
      }
    set.comm.exchange(out, in, "gradients");
    if (mine <= 0) continue;
    // In order of micro-batch, parameter by parameter of what lies in this chunk.
    for (size_t i = 0; i < slab.params.size(); ++i) {
      Param& p = *slab.params[i];
      const int64_t lo = std::max(own.lo + from, slab.at[i] + p.lo),
                    hi = std::min(own.lo + from + mine, slab.at[i] + p.hi);
      if (lo >= hi) continue;
      const int64_t at = lo - slab.at[i] - p.lo;
      const Tensor sum = p.sum.slice(at, at + hi - lo);
      bool first = wave == 0;
      for (int r = 0; r < n; ++r)
        for (int j = 0; j < sources; ++j) {
          if (!there(r, j)) continue;
          float* g = r == me ? slab.grads.f32() + j * slab.stride + lo
                             : place(r, j) + (lo - own.lo - from);
          const Tensor part = wrap(slab.grads.storage, g, {hi - lo}, DType::F32);
          first ? copy_into(sum, part) : ctx.k->accumulate(ctx, sum, part, 1.0f);
          first = false;
        }
    }
  }
}

double GradSum::norm() const {
  check(!sets_.empty(), "the norm of no gradient");
  const int me = ranks_.world.rank(), n = ranks_.world.size();
  std::vector<double> mine, all;
  std::vector<int64_t> count(n);
  for (const Piece& p : pieces_) count[p.rank] += (p.hi - p.lo + kNormBlock - 1) / kNormBlock;
  for (const Piece& p : pieces_) {
    if (p.rank != me) continue;
    for (double s : block_squares(params_[p.param]->sum)) mine.push_back(s);
  }
  std::vector<int64_t> at(n + 1);
  for (int r = 0; r < n; ++r) at[r + 1] = at[r] + count[r];
  all.resize(at[n]);
  std::copy(mine.begin(), mine.end(), all.begin() + at[me]);
  std::vector<Outgoing> out;
  std::vector<Incoming> in;
  for (int r = 0; r < n; ++r) {
    if (r == me) continue;
    out.push_back({r, mine.data(), static_cast<int64_t>(mine.size() * 8)});
    in.push_back({r, all.data() + at[r], count[r] * 8});
  }
  ranks_.world.exchange(out, in, "gradient norm");
  double total = 0;
  for (const Piece& p : pieces_)  // in the order of one rank
    for (int64_t lo = p.lo; lo < p.hi; lo += kNormBlock) total += all[at[p.rank]++];
  return std::sqrt(total);
}

void GradSum::share_values() const {
  for (const Set& set : sets_) {
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
    const Range& own = set.range[set.comm.rank()];
    for (int r = 0; r < set.comm.size(); ++r) {
      if (r == set.comm.rank()) continue;
      const Range& theirs = set.range[r];
      out.push_back({r, set.slab->values.data + own.byte_lo, own.byte_hi - own.byte_lo});
      in.push_back({r, set.slab->values.data + theirs.byte_lo, theirs.byte_hi - theirs.byte_lo});
    }
    set.comm.exchange(out, in, "trained values");
  }
}

int64_t GradSum::bytes_by_formula() const {
  int64_t bytes = 0;
  for (const Set& set : sets_) {
    const bool experts = &set == &sets_[1];
    const int me = set.comm.rank();
    int64_t gradients = 0;
    for (int64_t a = 0; a < micro_batches_; ++a) {
      const auto rank = static_cast<int>(a % ranks_.world.size());
      gradients += experts ? rank / ranks_.ep == me : rank == me;
    }
    for (int r = 0; r < set.comm.size(); ++r) {
      if (r == me) continue;
      bytes += gradients * (set.range[r].hi - set.range[r].lo) * 4;
      bytes += set.range[me].byte_hi - set.range[me].byte_lo;
    }
  }
  return bytes;
}

}  // namespace sutor
