#include "apps/table.h"

#include <algorithm>

#include "engine/error.h"

namespace sutor {
namespace {

// Columns on the terminal: code points, not bytes. (No wide characters in our tables.)
size_t width(const std::string& s) {
  return static_cast<size_t>(
      std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

bool numeric(const std::string& s) {
  return s.empty() || s == "-" ||
         (s.find_first_not_of("0123456789.,+-e%") == s.npos &&
          s.find_first_of("0123456789") != s.npos);
}

}  // namespace

void Table::row(std::vector<std::string> cells) {
  check(cells.size() == heads_.size(), "internal: table row of {} cells under {} heads",
        cells.size(), heads_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::text() const {
  std::vector<size_t> widths;
  std::vector<bool> right;
  for (size_t c = 0; c < heads_.size(); ++c) {
    widths.push_back(width(heads_[c]));
    right.push_back(!rows_.empty());
    for (const auto& r : rows_) {
      widths[c] = std::max(widths[c], width(r[c]));
      if (!numeric(r[c])) right[c] = false;
    }
  }
  std::string out;
  auto line = [&](const std::vector<std::string>& cells) {
    std::string s;
    for (size_t c = 0; c < cells.size(); ++c) {
      std::string pad(widths[c] - width(cells[c]), ' ');
      s += (c == 0 ? "" : "  ") + (right[c] ? pad + cells[c] : cells[c] + pad);
    }
    out += s.substr(0, s.find_last_not_of(' ') + 1) + "\n";
  };
  line(heads_);
  for (const auto& r : rows_) line(r);
  return out;
}

}  // namespace sutor
