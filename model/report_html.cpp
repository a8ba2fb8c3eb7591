#include "model/report_html.h"

#include <cmath>

namespace sutor {

std::string note(const std::string& what) {
  return "<p class=\"note\">" + escape_xml(what) + "</p>\n";
}
std::string figure(const std::string& svg, const std::string& caption) {
  return "<figure>\n" + svg + "<figcaption>" + escape_xml(caption) + "</figcaption>\n</figure>\n";
}

std::string number(double v) { return fmt::format("{:.4g}", v); }

std::string thousands(double v) {
  std::string s = fmt::format("{:.0f}", std::abs(v));
  for (int i = static_cast<int>(s.size()) - 3; i > 0; i -= 3)
    s.insert(static_cast<size_t>(i), "\u202f");
  return (v < 0 ? "\u2212" : "") + s;
}

std::string bytes_text(double v) {
  const char* unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int u = 0;
  for (; u < 4 && std::abs(v) >= 1024; ++u) v /= 1024;
  return fmt::format("{:.{}f} {}", v, u > 0 ? 1 : 0, unit[u]);
}

std::string table(const std::vector<std::string>& head,
                  const std::vector<std::vector<Cell>>& rows) {
  std::string s = "<div class=\"scroll\"><table>\n<thead><tr>";
  for (size_t i = 0; i < head.size(); ++i)
    s += fmt::format("<th{}>{}</th>", i == 0 ? " class=\"left\"" : "", escape_xml(head[i]));
  s += "</tr></thead>\n<tbody>\n";
  for (const auto& row : rows) {
    s += "<tr>";
    for (const Cell& c : row)
      s += fmt::format("<td{}>{}</td>", c.left ? " class=\"left\"" : "", escape_xml(c.text));
    s += "</tr>\n";
  }
  return s + "</tbody>\n</table></div>\n";
}

}  // namespace sutor
