// sutor env: what this machine offers. Cores and memory are what the process may use, which a
// container can make less than the machine has.
#include <oniguruma.h>
#include <sched.h>
#include <sys/utsname.h>
#include <utf8proc.h>
#include <xxhash.h>
#include <Eigen/Core>

#include <fstream>
#include <sstream>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/table.h"
#include "engine/comm.h"
#include "engine/cpu/isa.h"
#include "engine/parallel.h"
#include "io/memory.h"

namespace sutor {
namespace {

void declare(Args& a) { a.flag("json", "as JSON"); }

std::string first_value(const char* file, const std::string& key) {
  std::ifstream f(file);
  for (std::string line; std::getline(f, line);)
    if (size_t colon = line.find(':'); line.starts_with(key) && colon != line.npos) {
      size_t begin = line.find_first_not_of(" \t", colon + 1);
      return begin == line.npos ? "" : line.substr(begin);
    }
  return "";
}

double gib(const char* key) {
  std::istringstream in(first_value("/proc/meminfo", key));
  double kib = 0;
  in >> kib;
  return kib / 1048576.0;
}

double memory_limit_gib() {  // 0: no limit
  const std::optional<MemoryLimit> limit = memory_limit();
  return limit ? static_cast<double>(limit->bytes) / (1 << 30) : 0;
}

int usable_cpus() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
}

Json cpu_flags() {
  std::istringstream flags(first_value("/proc/cpuinfo", "flags"));
  Json found = Json::array();
  for (std::string f; flags >> f;)
    for (const char* wanted :
         {"avx2", "fma", "f16c", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16"})
      if (f == wanted) found.push_back(f);
  return found;
}

void run(const Args& a) {
  std::string why = cuda_unusable_because();
  utsname os{};
  uname(&os);
  Json isas = Json::array();
  for (cpu::Isa isa : cpu::available_isas()) isas.push_back(cpu::name_of(isa));
  Json libraries{
      {"mpi", mpi_version().empty() ? "not in this binary" : mpi_version()},
      {"eigen",
       fmt::format("{}.{}.{}", EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION)},
      {"fmt",
       fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100)},
      {"nlohmann_json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR,
                                    NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)},
      {"oniguruma", onig_version()},
      {"utf8proc", utf8proc_version()},
      {"xxhash", fmt::format("{}.{}.{}", XXH_versionNumber() / 10000,
                             XXH_versionNumber() / 100 % 100, XXH_versionNumber() % 100)}};
  Json j{{"cpu", first_value("/proc/cpuinfo", "model name")},
         {"cores", physical_cores()},
         {"usable_cpus", usable_cpus()},
         {"isa", cpu_flags()},
         {"kernels", isas},
         {"kernels_used", cpu::name_of(cpu::current_isa())},
         {"memory_gib", gib("MemTotal")},
         {"memory_free_gib", gib("MemAvailable")},
         {"memory_limit_gib", memory_limit_gib()},
         {"device", why.empty() ? "cuda" : "cpu"},
         {"cuda", why.empty() ? "usable" : "not usable: " + why},
         {"system", fmt::format("{} {} {}", os.sysname, os.release, os.machine)},
         {"compiler", "g++ " __VERSION__},
         {"libraries", libraries}};
  if (a.on("json")) return print_json(j);
  Table table({"what", "here"});
  auto text = [](const Json& v) {
    if (v.is_string()) return v.get<std::string>();
    if (v.is_number_float())
      return v == 0.0 ? std::string("none") : fmt::format("{:.1f}", v.get<double>());
    if (!v.is_array()) return v.dump();
    std::string s;
    for (const Json& e : v) s += (s.empty() ? "" : " ") + e.get<std::string>();
    return s;
  };
  for (const auto& [k, v] : j.items())
    if (!v.is_object()) table.row({k, text(v)});
  for (const auto& [k, v] : libraries.items()) table.row({k, text(v)});
  fmt::print("{}", table.text());
}

}  // namespace
const Command kEnv{"env", "what this machine offers; why CUDA is not usable", "sutor env --json",
                   declare, run};
}  // namespace sutor
