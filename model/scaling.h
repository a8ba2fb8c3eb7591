#pragma once
// What a step would take on more ranks than are at hand: a model of time from what was measured on
// one rank and from the links' bandwidth and latency, for replicas and for shared experts
// (docs/scaling.md). No message is simulated; the counts are those of engine/grad_sum.h and
// engine/ops/ep_exchange.cpp. Test: tests/scaling.cpp.

#include <string>
#include <vector>

#include "model/config.h"

namespace sutor {

struct Link {
  double gbytes_per_s = 10, latency_us = 1;  // of one direction; the latency includes software
};

struct Cluster {
  int hosts = 1, cores = 1;  // of a host
  int threads = 1;           // of a rank
  Link host, network;        // between two ranks of a host; a host's port
  // Measured on one rank with `threads` threads, nothing else on its host:
  double micro_batch_s = 0;         // forward and backward of a micro-batch
  double step_s = 0;                // what a step takes beside its micro-batches: data, update, log
  double expert_share = 0.5;        // of micro_batch_s: the routed experts' products
  double busy = 1;                  // how much longer it takes when every core of the host works
  double memory_gbytes_per_s = 10;  // a rank's
};
Cluster read_cluster(const std::string& yaml_file);

struct TrainedWork {
  int64_t micro_batches = 1, tokens = 1;  // of a step; of a micro-batch
  int64_t everywhere = 0, experts = 0;    // elements that train
  int value_bytes = 2;
  int64_t hidden = 0, moe_layers = 0, top_k = 1;
  int64_t layers_back = 0;  // MoE layers that have a backward pass
  double most_work = 1;     // the busiest rank's share of the routed work, times ep: 1 is even
};

struct Prediction {
  double compute = 0, experts = 0, gradients = 0, values = 0, step = 0;  // seconds
  double bytes = 0;  // that a rank sends in a step
};
// Of a step on `ranks` ranks, `ep` of which share experts.
Prediction predict(const Cluster& c, const TrainedWork& w, int ranks, int ep);

}  // namespace sutor
