#include "apps/bench_comm.h"

#include <algorithm>

#include "apps/common.h"
#include "apps/table.h"

namespace sutor {

void bench_comm(const Args& a, const Ranks& ranks) {
  const Comm& c = ranks.world;
  if (c.alone())
    throw UsageError("bench comm: one rank has nobody to talk to; mpirun -n 2 sutor bench comm");
  Table table({"bytes to each", "us", "GB/s sent by a rank"});
  Json rows = Json::array();
  for (const int64_t bytes :
       {int64_t{8}, int64_t{4} << 10, int64_t{64} << 10, int64_t{1} << 20, int64_t{16} << 20}) {
    std::vector<char> out(bytes, 1), in(bytes * c.size());
    std::vector<Outgoing> sends;
    std::vector<Incoming> receives;
    for (int r = 0; r < c.size(); ++r) {
      if (r == c.rank()) continue;
      sends.push_back({r, out.data(), bytes});
      receives.push_back({r, in.data() + r * bytes, bytes});
    }
    // Many in a row: a single small one is shorter than the clock's steps and the scheduler's.
    const int64_t in_a_row = std::clamp<int64_t>((int64_t{4} << 20) / bytes, 1, 200);
    std::vector<double> seconds;
    for (int64_t i = 0; i < a.num("repeats") + 1; ++i) {
      c.barrier("bench");
      Stopwatch watch;
      for (int64_t j = 0; j < in_a_row; ++j) c.exchange(sends, receives, "bench");
      seconds.push_back(watch.seconds() / static_cast<double>(in_a_row));
    }
    seconds.erase(seconds.begin());
    std::sort(seconds.begin(), seconds.end());
    const double s = seconds[seconds.size() / 2],
                 gbps = static_cast<double>(bytes * (c.size() - 1)) / s * 1e-9;
    table.row({std::to_string(bytes), fmt::format("{:.1f}", s * 1e6), fmt::format("{:.3f}", gbps)});
    rows.push_back({{"bytes", bytes}, {"seconds", s}, {"gbps", gbps}});
  }
  if (!ranks.lead()) return;
  if (a.on("json")) return print_json({{"ranks", c.size()}, {"rows", rows}});
  fmt::print("{} ranks, every one sends to every other\n{}", c.size(), table.text());
}

}  // namespace sutor
