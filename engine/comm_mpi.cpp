// Ranks as processes that mpirun or srun started. Only point-to-point messages are used: who does
// not answer can then be named. Open MPI 4.1; no datatype or operation of MPI's own.

#include <mpi.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "engine/comm.h"

namespace sutor {
namespace {

void checked(int rc, const char* what) {
  if (rc == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int n = 0;
  MPI_Error_string(rc, text, &n);
  throw PeerError(fmt::format("{}: MPI: {}", what, std::string(text, static_cast<size_t>(n))));
}

class MpiTransfer;

class MpiTransport : public Transport {
 public:
  MpiTransport() {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::unique_ptr<Transfer> start(const std::vector<Outgoing>& out, const std::vector<Incoming>& in,
                                  const char* what) override;
  int ranks_here() const override {
    MPI_Comm here = MPI_COMM_NULL;
    int n = 1;
    if (MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here) ==
        MPI_SUCCESS) {
      MPI_Comm_size(here, &n);
      MPI_Comm_free(&here);
    }
    return n;
  }
  using Transport::too_late;

 private:
  int rank_ = 0, size_ = 1;
};

class MpiTransfer : public Transfer {
 public:
  MpiTransfer(MpiTransport& t, const char* what) : transport_(t), what_(what) {}

  // A message of more than 1 GiB goes in pieces: MPI counts in int.
  template <class Post>
  void add(int peer, int64_t bytes, Post&& post) {
    constexpr int64_t kPiece = int64_t{1} << 30;
    for (int64_t lo = 0; lo < bytes; lo += kPiece) {
      requests_.emplace_back();
      peers_.push_back(peer);
      size_.push_back(static_cast<int>(std::min(kPiece, bytes - lo)));
      checked(post(lo, size_.back(), &requests_.back()), what_);
    }
  }

  void wait() override {
    const auto deadline =
        std::chrono::steady_clock::now() + std::chrono::duration<double>(transport_.timeout);
    std::vector<int> done(requests_.size());
    std::vector<MPI_Status> status(requests_.size());
    for (int64_t idle = 0;;) {
      int n = 0;
      checked(MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &n, done.data(),
                           status.data()),
              what_);
      if (n == MPI_UNDEFINED) return;  // none is left
      for (int i = 0; i < n; ++i) {
        if (done[i] >= receives_) continue;
        int got = 0;
        MPI_Get_count(&status[i], MPI_BYTE, &got);
        check(got == size_[done[i]],
              "rank {} waits for {} bytes of {}, rank {} sends {}: out of step", transport_.rank(),
              size_[done[i]], what_, peers_[done[i]], got);
      }
      idle = n > 0 ? 0 : idle + 1;
      if (idle < 200) continue;
      // Ranks may share a core: it is the other's turn. Long waits do not need the core at all.
      if (idle < 20000)
        sched_yield();
      else
        usleep(50);
      if (idle % 256 == 0 && !transport_.patient && std::chrono::steady_clock::now() > deadline)
        late();
    }
  }

 private:
  [[noreturn]] void late() const {
    std::vector<int> peers;
    for (size_t i = 0; i < requests_.size(); ++i)
      if (requests_[i] != MPI_REQUEST_NULL &&
          std::find(peers.begin(), peers.end(), peers_[i]) == peers.end())
        peers.push_back(peers_[i]);
    transport_.too_late(what_, peers);
  }

  MpiTransport& transport_;
  const char* what_;
  std::vector<MPI_Request> requests_;
  std::vector<int> peers_, size_;  // of each request
  int receives_ = 0;               // the first requests
  friend class MpiTransport;
};

// Ranks out of step wait for different operations, which ends in an error that names them.
int tag_of(const char* what) {
  unsigned h = 2166136261u;
  for (const char* c = what; *c != 0; ++c) h = (h ^ static_cast<unsigned char>(*c)) * 16777619u;
  return static_cast<int>(h % 32749);  // MPI_TAG_UB is at least 32767
}

std::unique_ptr<Transfer> MpiTransport::start(const std::vector<Outgoing>& out,
                                              const std::vector<Incoming>& in, const char* what) {
  auto t = std::make_unique<MpiTransfer>(*this, what);
  const int tag = tag_of(what);  // messages of one kind are told apart by their order
  for (const Incoming& i : in)
    t->add(i.from, i.bytes, [&](int64_t lo, int n, MPI_Request* r) {
      return MPI_Irecv(static_cast<char*>(i.data) + lo, n, MPI_BYTE, i.from, tag, MPI_COMM_WORLD,
                       r);
    });
  t->receives_ = static_cast<int>(t->requests_.size());
  for (const Outgoing& o : out)
    t->add(o.to, o.bytes, [&](int64_t lo, int n, MPI_Request* r) {
      return MPI_Isend(static_cast<const char*>(o.data) + lo, n, MPI_BYTE, o.to, tag,
                       MPI_COMM_WORLD, r);
    });
  return t;
}

}  // namespace

std::shared_ptr<Transport> mpi_transport() {
  const int started = ranks_that_mpi_started();
  if (started <= 1) return nullptr;
  int provided = 0;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) == MPI_SUCCESS &&
            provided >= MPI_THREAD_FUNNELED,
        "MPI: cannot start beside threads");
  auto t = std::make_shared<MpiTransport>();
  check(t->size() == started,
        "the launcher started {} processes, MPI sees {}: start with mpirun, or with srun "
        "--mpi=pmix where Open MPI was built for it",
        started, t->size());
  return t;
}

void leave_mpi(int code) {
  int on = 0, off = 0;
  MPI_Initialized(&on);
  MPI_Finalized(&off);
  if (on == 0 || off != 0) return;
  if (code != 0) {
    std::fflush(nullptr);
    MPI_Abort(MPI_COMM_WORLD, code);
  }
  MPI_Finalize();
}

std::string mpi_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int n = 0;
  MPI_Get_library_version(text, &n);
  std::string s(text, static_cast<size_t>(n));
  return s.substr(0, s.find(','));
}

}  // namespace sutor
