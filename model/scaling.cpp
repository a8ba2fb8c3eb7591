#include "model/scaling.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "io/file.h"

namespace sutor {
namespace {

double number(const YAML::Node& n, const std::string& where, double lo, double hi) {
  try {
    const auto v = n.as<double>();
    check(v >= lo && v <= hi, "{}: {} is not in {}..{}", where, v, lo, hi);
    return v;
  } catch (const YAML::Exception&) {
    fail("{}: is no number", where);
  }
}

using Fields = std::map<std::string, std::function<void(const YAML::Node&, const std::string&)>>;

void read(const YAML::Node& node, const std::string& where, const Fields& fields) {
  check(node.IsMap(), "{}: must hold keys and values", where);
  std::vector<std::string> allowed;
  for (const auto& [key, set] : fields) allowed.push_back(key);
  for (const auto& kv : node) {
    const std::string key = kv.first.Scalar();
    const auto at = fields.find(key);
    check(at != fields.end(), "{}: unknown key {}; allowed: {}", where, key,
          fmt::join(allowed, ", "));
    at->second(kv.second, where + ": " + key);
  }
  for (const auto& [key, set] : fields)
    check(node[key].IsDefined(), "{}: {} is missing", where, key);
}

auto into(double& v, double lo, double hi) {
  return
      [&v, lo, hi](const YAML::Node& n, const std::string& where) { v = number(n, where, lo, hi); };
}
auto into(int& v, double lo, double hi) {
  return [&v, lo, hi](const YAML::Node& n, const std::string& where) {
    v = static_cast<int>(number(n, where, lo, hi));
  };
}
auto into(Link& l) {
  return [&l](const YAML::Node& n, const std::string& where) {
    read(n, where,
         {{"gbytes_per_s", into(l.gbytes_per_s, 1e-6, 1e6)},
          {"latency_us", into(l.latency_us, 0, 1e9)}});
  };
}

}  // namespace

Cluster read_cluster(const std::string& file) {
  Cluster c;
  YAML::Node root;
  try {
    root = YAML::Load(read_file(file));
  } catch (const YAML::Exception& e) {
    fail("{}: {}", file, e.msg);
  }
  read(root, file,
       {{"hosts", into(c.hosts, 1, 1e6)},
        {"cores", into(c.cores, 1, 4096)},
        {"threads", into(c.threads, 1, 4096)},
        {"host", into(c.host)},
        {"network", into(c.network)},
        {"micro_batch_s", into(c.micro_batch_s, 1e-9, 1e9)},
        {"step_s", into(c.step_s, 0, 1e9)},
        {"expert_share", into(c.expert_share, 0, 1)},
        {"busy", into(c.busy, 0.5, 100)},
        {"memory_gbytes_per_s", into(c.memory_gbytes_per_s, 1e-3, 1e6)}});
  return c;
}

Prediction predict(const Cluster& c, const TrainedWork& w, int ranks, int ep) {
  const double R = ranks, replicas = R / ep, A = static_cast<double>(w.micro_batches);
  const double waves = std::ceil(A / R);
  const double here = std::ceil(R / c.hosts);  // ranks of a host
  // Ranks beyond a host's cores take turns; ranks that fill it share its memory.
  const double cores = std::min(R, here) * c.threads;
  const double turns = std::max(1.0, cores / c.cores);
  const double busy =
      1 +
      (c.busy - 1) * std::min(1.0, (cores - c.threads) / std::max(1.0, c.cores - c.threads * 1.0));
  // A rank's time to send `bytes` in `messages`, when all send: within the host by copying, else
  // through the host's port, which its ranks share.
  auto sending = [&](double bytes, double messages, double peers_elsewhere) {
    const double away = bytes * peers_elsewhere, near = bytes - away;
    return near / (c.host.gbytes_per_s * 1e9) * turns +
           away * here / (c.network.gbytes_per_s * 1e9) +
           messages *
               ((1 - peers_elsewhere) * c.host.latency_us * turns +
                peers_elsewhere * c.network.latency_us) *
               1e-6;
  };
  const double elsewhere = R <= here ? 0 : (R - here) / (R - 1);
  const double ep_elsewhere = ep <= here ? 0 : (ep - here) / (ep - 1.0);
  const double per = c.micro_batch_s * turns * busy;

  Prediction p;
  p.compute = waves * per * (1 - c.expert_share + c.expert_share * (ep > 1 ? w.most_work : 1)) +
              c.step_s * turns;
  if (ep > 1) {
    // A token goes to as many other owners as its choices fall on: of K even choices.
    const double K = static_cast<double>(w.top_k), T = static_cast<double>(w.tokens), E = ep;
    const double owners = E * (1 - std::pow(1 - 1 / E, K)), away = (E - 1) / E;
    const double rows = T * away * (owners + K) * static_cast<double>(w.hidden) * 4;
    const double passes = static_cast<double>(w.moe_layers + w.layers_back);
    p.bytes += waves * passes * rows;
    p.experts = waves * passes *
                (sending(rows, 3 * (E - 1), ep_elsewhere) +
                 2 * rows / (c.memory_gbytes_per_s * 1e9) * turns);
  }
  // Gradients: per wave, of what others update; the owner reads and adds them all.
  const double mine = static_cast<double>(w.everywhere) / R + static_cast<double>(w.experts) / R,
               out = static_cast<double>(w.everywhere) * (R - 1) / R * 4 +
                     // of each of the ep sources, 1 / ep of the experts, for the other replicas
                     static_cast<double>(w.experts) * (replicas - 1) / replicas * 4;
  const double sources = R;  // gradients that meet at an element
  p.gradients =
      waves * (sending(out, R - 1, elsewhere) +
               (R > 1 || A > 1 ? mine * sources * 12 / (c.memory_gbytes_per_s * 1e9) * turns : 0));
  const double update = mine * 24 / (c.memory_gbytes_per_s * 1e9) * turns;
  const double values = (static_cast<double>(w.everywhere) / R * (R - 1) +
                         static_cast<double>(w.experts) / R * (replicas - 1)) *
                        w.value_bytes;
  p.values = update + sending(values, R - 1, elsewhere) +
             // losses, norm, loads, flags: four small exchanges with all
             (R > 1 ? sending(0, 4 * (R - 1), elsewhere) : 0);
  p.bytes += waves * out + values;
  p.step = p.compute + p.experts + p.gradients + p.values;
  return p;
}

}  // namespace sutor
