#include "apps/ranks.h"

#include <cstdio>
#include <cstdlib>

#include "engine/parallel.h"
#include "model/placement.h"

namespace sutor {

void declare_ranks(Args& a, bool training) {
  if (training) {
    a.integer("ep", "ranks that share the experts of a layer; the others are replicas", 1, 1, 4096);
    a.string("expert-scores",
             "scores.json: how many tokens each expert will get, to share experts evenly (--ep)");
    a.integer("ranks-as-threads", "ranks in this process, in place of mpirun's processes", 1, 1,
              256);
  }
  a.real("comm-timeout", "seconds after which a rank that does not answer ends the run", 600, 0.1,
         1e6);
}

bool declares_ranks(const Args& a) { return a.declares("comm-timeout"); }

void on_ranks(const Args& a, const std::function<void(const Ranks&)>& body) {
  const bool training = a.declares("ep");
  const int threads = training ? static_cast<int>(a.num("ranks-as-threads")) : 1;
  auto run = [&](const Comm& comm) {
    body(make_ranks(comm, training ? static_cast<int>(a.num("ep")) : comm.size()));
  };
  const std::shared_ptr<Transport> mpi = mpi_transport();
  if (mpi) {
    if (threads > 1)
      throw UsageError(fmt::format("--ranks-as-threads {}: mpirun started {} ranks already",
                                   threads, mpi->size()));
    mpi->timeout = a.real("comm-timeout");
    if (a.num("threads") == 0) {
      // Bound to cores of its own, a rank has those; else the ranks of a host share them.
      const char* local = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
      const int here = local != nullptr ? std::max(1, std::atoi(local)) : 1;
      if (physical_cores() == machine_cores() && here > 1)
        set_num_threads(std::max(1, physical_cores() / here));
    }
    quiet_rank = mpi->rank() > 0;
    // Results are rank 0's to print.
    if (quiet_rank) check(std::freopen("/dev/null", "w", stdout) != nullptr, "/dev/null");
    return run(Comm(mpi));
  }
  a.no_effect_unless(threads > 1, "comm-timeout", "there is one rank");
  if (threads == 1) return run(Comm());
  run_ranks_as_threads(threads, a.real("comm-timeout"), [&](const Comm& comm) {
    quiet_rank = comm.rank() > 0;
    run(comm);
  });
}

void share_experts_for_inference(Model& model, const Ranks& ranks) {
  if (ranks.alone()) return;
  const Placement p = place_experts(model, ranks.world.size(), {});
  model.share_experts(ranks.world, p.owner, true);
}

}  // namespace sutor
