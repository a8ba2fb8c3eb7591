// sutor env: what this machine offers.
#include <nlohmann/json.hpp>
#include <yaml-cpp/yaml.h>

#include <fstream>
#include <sstream>

#include "apps/commands.h"
#include "apps/common.h"
#include "engine/parallel.h"

namespace sutor {
namespace {

void declare(Args& a) { a.flag("json", "as JSON"); }

std::string first_value(const char* file, const std::string& key) {
  std::ifstream f(file);
  for (std::string line; std::getline(f, line);)
    if (line.starts_with(key)) return line.substr(line.find(':') + 1);
  return "";
}

void run(const Args& a) {
  std::istringstream flags(first_value("/proc/cpuinfo", "flags"));
  Json isa = Json::array();
  for (std::string f; flags >> f;)
    for (const char* wanted : {"avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16"})
      if (f == wanted) isa.push_back(f);
  std::string memory = first_value("/proc/meminfo", "MemTotal");
  double gib = memory.empty() ? 0 : std::stod(memory) / 1048576.0;
  std::string why = cuda_unusable_because();
  Json j{{"cores", physical_cores()}, {"isa", isa}, {"memory_gib", gib}, {"cuda", why.empty() ? "usable" : "not usable: " + why},
         {"compiler", __VERSION__}, {"nlohmann_json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)},
         {"fmt", FMT_VERSION}};
  if (a.on("json")) return print_json(j);
  for (const auto& [k, v] : j.items()) fmt::print("{:<16} {}\n", k, v.is_string() ? v.get<std::string>() : v.dump());
}

}  // namespace
const Command kEnv{"env", "what this machine offers; why CUDA is not usable", "sutor env --json", declare, run};
}  // namespace sutor
