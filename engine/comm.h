#pragma once
// Ranks and the messages between them. A Transport carries messages (threads of one process, MPI);
// a Comm is some of its ranks in an order, and every collective is made of messages that all of
// them know the sizes of.
//
// Every rank calls the same operations in the same order: a rank without tokens, without a weight
// that trains or without data joins them all. Messages between two ranks arrive in the order in
// which they were sent. An operation that waits longer than the timeout ends the run with an error
// that names rank, step, operation and the peers that did not answer.
//
// Reductions are not here: sums are made by whoever owns the elements, in an order that does not
// depend on the number of ranks (engine/grad_sum.h, docs/reproducibility.md).
// Implementations: comm_threads.cpp, comm_mpi.cpp (comm_no_mpi.cpp where MPI is absent). Test:
// tests/comm.cpp.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/error.h"

namespace sutor {

struct Outgoing {
  int to;
  const void* data;
  int64_t bytes;
};
struct Incoming {
  int from;
  void* data;
  int64_t bytes;
};

// Another rank failed or left, or did not answer in time: not this rank's own fault.
struct PeerError : Error {
  using Error::Error;
};

// Messages under way; their buffers stay as they are until wait() has returned.
class Transfer {
 public:
  virtual ~Transfer() = default;
  virtual void wait() = 0;
};

// What one kind of operation sent from here, and how long this rank waited for it.
struct Traffic {
  int64_t calls = 0, bytes = 0;
  double seconds = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Ranks are those of the transport; no message goes to oneself.
  virtual std::unique_ptr<Transfer> start(const std::vector<Outgoing>& out,
                                          const std::vector<Incoming>& in, const char* what) = 0;
  virtual int ranks_here() const = 0;  // on this host; every rank asks at once

  double timeout = 600;  // seconds
  bool patient = false;  // it does not count
  std::string where;     // "step 14": goes into errors

 protected:
  // Throws PeerError: nothing from, or no room at, these ranks.
  [[noreturn]] void too_late(const char* what, const std::vector<int>& peers) const;
};

class Comm {
 public:
  Comm() = default;  // one rank alone
  explicit Comm(std::shared_ptr<Transport> transport);
  int rank() const { return me_; }
  int size() const { return static_cast<int>(ranks_.size()); }
  bool alone() const { return size() == 1; }
  Comm group(const std::vector<int>& members) const;  // this rank is among them; their order

  // `what` names the kind of operation, in errors and in traffic(). Empty messages are not sent;
  // both sides know which.
  class Pending {
   public:
    void wait();

   private:
    friend class Comm;
    std::unique_ptr<Transfer> transfer_;
    Traffic* traffic_ = nullptr;
  };
  Pending start(const std::vector<Outgoing>& out, const std::vector<Incoming>& in,
                const char* what) const;
  void exchange(const std::vector<Outgoing>& out, const std::vector<Incoming>& in,
                const char* what) const {
    start(out, in, what).wait();
  }

  // all[r] = what rank r gave.
  std::vector<int64_t> all_gather(int64_t mine, const char* what) const;
  std::vector<std::string> all_gather(const std::string& mine, const char* what) const;
  // all[r * bytes] = rank r's bytes.
  void all_gather(const void* mine, int64_t bytes, void* all, const char* what) const;
  // to[r] goes to rank r; returns what each sent here.
  std::vector<int64_t> all_to_all(const std::vector<int64_t>& to, const char* what) const;
  // What every rank gave, at `root`; elsewhere nothing.
  std::vector<std::string> gather(const std::string& mine, int root, const char* what) const;
  std::string broadcast(const std::string& mine, int root, const char* what) const;
  void barrier(const char* what) const { all_gather(int64_t{0}, what); }

  void say_where(const std::string& where) const;  // in errors of all that follows
  // While the others only wait for one rank, which writes or reads for long: no timeout.
  void wait_patiently(bool on) const;
  int ranks_here() const;  // on this host; every rank asks at once
  const std::map<std::string, Traffic>& traffic() const;
  void reset_traffic() const;

 private:
  std::shared_ptr<Transport> transport_;
  std::shared_ptr<std::map<std::string, Traffic>> traffic_ =
      std::make_shared<std::map<std::string, Traffic>>();
  std::vector<int> ranks_{0};
  int me_ = 0;
};

// Runs `body` in `ranks` threads, each with its Comm. Rethrows the first error that was no
// PeerError, else the first.
void run_ranks_as_threads(int ranks, double timeout, const std::function<void(const Comm&)>& body);

// MPI, when this process was started as one of several by mpirun or srun; else nullptr. Throws when
// it was and this binary has no MPI, or cannot join.
std::shared_ptr<Transport> mpi_transport();
void leave_mpi(int code);   // before a process that joined ends; with an error, all ranks end
std::string mpi_version();  // empty: built without
// By the environment that the launcher set, before MPI is joined; 1 and 0: not one of several.
int ranks_that_mpi_started();
int rank_that_mpi_gave();

}  // namespace sutor
