// The roofline of a machine (Williams, Waterman, Patterson, CACM 2009): attainable GFLOP/s over
// flop per byte, both logarithmic, with what was measured beneath it. Test: tests/report.cpp.

#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "io/svg.h"

namespace sutor {
namespace {

constexpr double kWidth = 860, kHeight = 430, kLeft = 64, kTop = 34, kRight = 20, kBottom = 48;
constexpr const char* kPalette[] = {"#2f7de1", "#e0591b", "#2f9e44", "#b34ad0", "#0c9fb0",
                                    "#d6336c", "#b58900", "#868e96", "#5f3dc4", "#795548"};

struct LogAxis {
  double lo, hi, from, to;  // powers of ten; where on the page
  double at(double v) const { return from + (std::log10(v) - lo) / (hi - lo) * (to - from); }
};

std::string text(double x, double y, const char* anchor, const std::string& s) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                     escape_xml(s));
}

std::string line(double x0, double y0, double x1, double y1, const char* more) {
  return fmt::format(
      "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"currentColor\" "
      "{}/>\n",
      x0, y0, x1, y1, more);
}

}  // namespace

std::string draw(const Roofline& r) {
  check(r.peak_gflops > 0 && r.read_gbps > 0, "roofline: peaks {} GFLOP/s and {} GB/s",
        r.peak_gflops, r.read_gbps);
  double least = 1e300, most = 0, low = r.peak_gflops;
  for (const RooflinePoint& p : r.points) {
    check(p.flop_per_byte > 0 && p.gflops > 0, "roofline: {}: {} flop per byte, {} GFLOP/s", p.name,
          p.flop_per_byte, p.gflops);
    least = std::min(least, p.flop_per_byte);
    most = std::max(most, p.flop_per_byte);
    low = std::min(low, p.gflops);
  }
  const double ridge = r.peak_gflops / r.read_gbps;
  auto below = [](double v) { return std::floor(std::log10(v) - 1e-9); };
  auto above = [](double v) { return std::ceil(std::log10(v) + 1e-9); };
  const LogAxis x{below(std::min(least, ridge)), above(std::max(most, ridge)), kLeft,
                  kWidth - kRight},
      y{below(low), above(r.peak_gflops), kHeight - kBottom, kTop};
  std::string s = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {:.0f} {:.0f}\" "
      "font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"currentColor\">\n"
      "<title>{}</title>\n<text x=\"0\" y=\"15\" font-size=\"14\" font-weight=\"600\">{}</text>\n",
      kWidth, kHeight, escape_xml(r.title), escape_xml(r.title));
  for (double e = x.lo; e <= x.hi; ++e) {
    const double at = x.at(std::pow(10, e));
    s += line(at, y.from, at, y.to, "stroke-opacity=\"0.15\"");
    s += text(at, y.from + 18, "middle", fmt::format("{:g}", std::pow(10, e)));
  }
  for (double e = y.lo; e <= y.hi; ++e) {
    const double at = y.at(std::pow(10, e));
    s += line(x.from, at, x.to, at, "stroke-opacity=\"0.15\"");
    s += text(x.from - 8, at + 4, "end", fmt::format("{:g}", std::pow(10, e)));
  }
  s += text((x.from + x.to) / 2, kHeight - 10, "middle", "flop per byte read");
  s += fmt::format(
      "<text x=\"14\" y=\"{:.1f}\" text-anchor=\"middle\" transform=\"rotate(-90 14 "
      "{:.1f})\">GFLOP/s</text>\n",
      (y.from + y.to) / 2, (y.from + y.to) / 2);
  // The slope enters at the left, or from below.
  const double first = std::max(std::pow(10, x.lo), std::pow(10, y.lo) / r.read_gbps);
  const char* roof = "stroke-width=\"2\" stroke-opacity=\"0.7\"";
  s += line(x.at(first), y.at(first * r.read_gbps), x.at(ridge), y.at(r.peak_gflops), roof);
  s += line(x.at(ridge), y.at(r.peak_gflops), x.to, y.at(r.peak_gflops), roof);
  s += text(x.to, y.at(r.peak_gflops) - 6, "end",
            fmt::format("{:.0f} GFLOP/s, {:.1f} GB/s", r.peak_gflops, r.read_gbps));
  std::vector<std::string> names;
  for (const RooflinePoint& p : r.points) {
    auto known = std::find(names.begin(), names.end(), p.name);
    const auto i = static_cast<size_t>(known - names.begin());
    if (known == names.end()) names.push_back(p.name);
    s += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4.5\" fill=\"{}\"><title>{}</title></circle>\n",
        x.at(p.flop_per_byte), y.at(p.gflops), kPalette[i % std::size(kPalette)],
        escape_xml(
            fmt::format("{}, {}: {:.0f} GFLOP/s, {:.0f} % of the roof", p.name, p.detail, p.gflops,
                        100 * p.gflops / std::min(r.peak_gflops, p.flop_per_byte * r.read_gbps))));
  }
  double at = y.from - 8 - 17 * static_cast<double>(names.size() - 1);
  for (size_t i = 0; i < names.size(); ++i, at += 17) {
    s += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4.5\" fill=\"{}\"/>\n", x.to - 190,
                     at - 4, kPalette[i % std::size(kPalette)]);
    s += text(x.to - 180, at, "start", names[i]);
  }
  return s + "</svg>\n";
}

}  // namespace sutor
