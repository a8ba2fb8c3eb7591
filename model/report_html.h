#pragma once
// Pieces of the report page: notes, figures with captions, tables, numbers for people.

#include <string>
#include <vector>

#include "io/svg.h"
#include "model/report_data.h"

namespace sutor {

std::string note(const std::string& what);
std::string figure(const std::string& svg, const std::string& caption);
std::string number(double v);
std::string thousands(double v);
std::string bytes_text(double v);

struct Cell {
  std::string text;
  bool left = false;
};
std::string table(const std::vector<std::string>& head, const std::vector<std::vector<Cell>>& rows);

// A note on the runs for which `has` is false.
std::string missing(const std::vector<ReportRun>& runs, const char* file, auto has) {
  std::string names;
  for (const ReportRun& r : runs)
    if (!has(r)) names += (names.empty() ? "" : ", ") + r.name;
  return names.empty() ? "" : note(fmt::format("Left out (no {}): {}.", file, names));
}

}  // namespace sutor
