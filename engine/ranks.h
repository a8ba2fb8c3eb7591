#pragma once
// How the ranks of a run share the work. Groups of `ep` consecutive ranks share the experts of
// every MoE layer (expert parallelism); each group has the whole model, so there are size / ep
// replicas. Everything else is on every rank. ep 1: each rank is a group, no token travels.

#include "engine/comm.h"

namespace sutor {

struct Ranks {
  Comm world;
  int ep = 1;
  Comm sharing;   // the ranks that share experts: this one's replica of the model
  Comm replicas;  // the ranks that hold the same experts, one of each replica

  int position() const { return world.rank() % ep; }  // in `sharing`
  bool lead() const { return world.rank() == 0; }
  bool alone() const { return world.alone(); }
};

inline Ranks make_ranks(const Comm& world, int ep) {
  check(ep >= 1 && world.size() % ep == 0,
        "--ep {}: does not divide the {} ranks: as many as share the experts, times replicas", ep,
        world.size());
  Ranks r;
  r.world = world;
  r.ep = ep;
  std::vector<int> sharing, replicas;
  const int first = world.rank() / ep * ep;
  for (int i = 0; i < ep; ++i) sharing.push_back(first + i);
  for (int i = world.rank() % ep; i < world.size(); i += ep) replicas.push_back(i);
  r.sharing = world.group(sharing);
  r.replicas = world.group(replicas);
  return r;
}

}  // namespace sutor
