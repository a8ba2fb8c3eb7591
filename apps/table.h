#pragma once
// Aligned text tables for people: columns as wide as their widest cell, numbers to the right.

#include <string>
#include <vector>

namespace sutor {

class Table {
 public:
  explicit Table(std::vector<std::string> heads) : heads_(std::move(heads)) {}
  void row(std::vector<std::string> cells);  // as many as heads
  std::string text() const;

 private:
  std::vector<std::string> heads_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace sutor
