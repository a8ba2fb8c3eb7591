// Prints encode MB/s for a tokenizer folder on a file of JSON strings, one per line. Built and run
// by bench/tokenizer.py.

#include "io/tokenizer.h"

#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

int main(int, char** argv) {
  auto t = sutor::Tokenizer::load(argv[1]);
  std::vector<std::string> text;
  std::ifstream f(argv[2]);
  for (std::string line; std::getline(f, line);)
    text.push_back(nlohmann::json::parse(line).get<std::string>());
  double best = 0;
  size_t ids = 0;
  for (int r = 0; r < 3; ++r) {
    auto start = std::chrono::steady_clock::now();
    size_t bytes = 0;
    ids = 0;
    for (auto& s : text) bytes += s.size(), ids += t.encode(s, false).size();
    std::chrono::duration<double> d = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(bytes) / 1e6 / d.count());
  }
  std::printf("%.2f %zu\n", best, ids);
}
