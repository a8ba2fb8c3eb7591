#include "engine/comm.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <numeric>

namespace sutor {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void Transport::too_late(const char* what, const std::vector<int>& peers) const {
  throw PeerError(fmt::format("rank {}{}{}: {}: no answer from rank{} {} within {:g} s", rank(),
                              where.empty() ? "" : ", ", where, what, peers.size() == 1 ? "" : "s",
                              fmt::join(peers, ", "), timeout));
}

Comm::Comm(std::shared_ptr<Transport> transport)
    : transport_(std::move(transport)), ranks_(transport_->size()), me_(transport_->rank()) {
  std::iota(ranks_.begin(), ranks_.end(), 0);
}

Comm Comm::group(const std::vector<int>& members) const {
  Comm g = *this;
  g.ranks_.clear();
  g.me_ = -1;
  for (int m : members) {
    check(m >= 0 && m < size(), "a group names rank {} of {}", m, size());
    if (m == me_) g.me_ = static_cast<int>(g.ranks_.size());
    g.ranks_.push_back(ranks_[m]);
  }
  check(g.me_ >= 0, "rank {} is not in the group that it makes", me_);
  return g;
}

Comm::Pending Comm::start(const std::vector<Outgoing>& out, const std::vector<Incoming>& in,
                          const char* what) const {
  Pending p;
  Traffic& t = (*traffic_)[what];
  ++t.calls;
  p.traffic_ = &t;
  std::vector<Outgoing> sends;
  std::vector<Incoming> receives;
  for (const Outgoing& o : out) {
    if (o.bytes == 0) continue;
    sends.push_back({ranks_[o.to], o.data, o.bytes});
    t.bytes += o.bytes;
  }
  for (const Incoming& i : in)
    if (i.bytes > 0) receives.push_back({ranks_[i.from], i.data, i.bytes});
  if (sends.empty() && receives.empty()) return p;
  check(transport_ != nullptr, "{}: one rank alone has nobody to talk to", what);
  const double begin = now();
  p.transfer_ = transport_->start(sends, receives, what);
  t.seconds += now() - begin;
  return p;
}

void Comm::Pending::wait() {
  if (!transfer_) return;
  const double begin = now();
  transfer_->wait();
  traffic_->seconds += now() - begin;
  transfer_.reset();
}

void Comm::all_gather(const void* mine, int64_t bytes, void* all, const char* what) const {
  auto* to = static_cast<std::byte*>(all);
  if (bytes > 0) std::memcpy(to + me_ * bytes, mine, bytes);
  std::vector<Outgoing> out;
  std::vector<Incoming> in;
  for (int r = 0; r < size(); ++r) {
    if (r == me_) continue;
    out.push_back({r, mine, bytes});
    in.push_back({r, to + r * bytes, bytes});
  }
  exchange(out, in, what);
}

std::vector<int64_t> Comm::all_gather(int64_t mine, const char* what) const {
  std::vector<int64_t> all(size());
  all_gather(&mine, sizeof mine, all.data(), what);
  return all;
}

std::vector<int64_t> Comm::all_to_all(const std::vector<int64_t>& to, const char* what) const {
  std::vector<int64_t> from(size());
  from[me_] = to[me_];
  std::vector<Outgoing> out;
  std::vector<Incoming> in;
  for (int r = 0; r < size(); ++r) {
    if (r == me_) continue;
    out.push_back({r, &to[r], sizeof to[r]});
    in.push_back({r, &from[r], sizeof from[r]});
  }
  exchange(out, in, what);
  return from;
}

std::vector<std::string> Comm::all_gather(const std::string& mine, const char* what) const {
  const std::vector<int64_t> bytes = all_gather(static_cast<int64_t>(mine.size()), what);
  std::vector<std::string> all(size());
  std::vector<Outgoing> out;
  std::vector<Incoming> in;
  for (int r = 0; r < size(); ++r) {
    all[r].resize(bytes[r]);
    if (r == me_) {
      all[r] = mine;
      continue;
    }
    out.push_back({r, mine.data(), bytes[me_]});
    in.push_back({r, all[r].data(), bytes[r]});
  }
  exchange(out, in, what);
  return all;
}

std::vector<std::string> Comm::gather(const std::string& mine, int root, const char* what) const {
  const std::vector<int64_t> bytes = all_gather(static_cast<int64_t>(mine.size()), what);
  if (me_ != root) {
    exchange({{root, mine.data(), bytes[me_]}}, {}, what);
    return {};
  }
  std::vector<std::string> all(size());
  std::vector<Incoming> in;
  for (int r = 0; r < size(); ++r) {
    if (r == me_) {
      all[r] = mine;
      continue;
    }
    all[r].resize(bytes[r]);
    in.push_back({r, all[r].data(), bytes[r]});
  }
  exchange({}, in, what);
  return all;
}

std::string Comm::broadcast(const std::string& mine, int root, const char* what) const {
  return all_gather(me_ == root ? mine : std::string(), what)[root];
}

void Comm::say_where(const std::string& where) const {
  if (transport_) transport_->where = where;
}

void Comm::wait_patiently(bool on) const {
  if (transport_) transport_->patient = on;
}

int Comm::ranks_here() const { return transport_ ? transport_->ranks_here() : 1; }

const std::map<std::string, Traffic>& Comm::traffic() const { return *traffic_; }

void Comm::reset_traffic() const {
  for (auto& [what, t] : *traffic_) t = {};  // entries stay: transfers under way point to them
}

namespace {

int from_environment(std::initializer_list<const char*> names, int fallback) {
  for (const char* name : names) {
    const char* text = std::getenv(name);
    int n = 0;
    if (text != nullptr && std::from_chars(text, text + std::strlen(text), n).ec == std::errc())
      return n;
  }
  return fallback;
}

}  // namespace

// Open MPI's mpirun; MPICH's and Slurm's PMI; a Slurm step.
int ranks_that_mpi_started() {
  return std::max(
      1, from_environment({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}, 1));
}

int rank_that_mpi_gave() {
  if (ranks_that_mpi_started() == 1) return 0;
  return std::max(0, from_environment({"OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"}, 0));
}

}  // namespace sutor
