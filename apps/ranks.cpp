#include "apps/ranks.h"

#include <sched.h>

#include <cstdio>
#include <set>

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

namespace {

int first_cpu() {  // that this process may run on
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 0;
  int i = 0;
  while (i < CPU_SETSIZE && !CPU_ISSET(i, &set)) ++i;
  return i;
}

}  // namespace

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
    // Bound to cores of its own (its first is not everybody's), a rank has those; else the ranks of
    // a host share them.
    const int here = mpi->ranks_here();
    const Comm all(mpi);
    const std::vector<int64_t> first = all.all_gather(int64_t{first_cpu()}, "cores");
    const bool bound = std::set<int64_t>(first.begin(), first.end()).size() > 1;
    if (a.num("threads") == 0 && !bound) set_num_threads(std::max(1, physical_cores() / here));
    if (mpi->rank() == 0 && !a.on("quiet"))
      note("{} ranks, {} on this host, of {} thread{} each\n", mpi->size(), here, num_threads(),
           num_threads() == 1 ? "" : "s");
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
