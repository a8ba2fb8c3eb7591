// Line charts, heat maps and bars as inline SVG text: axes with round ticks, one colour scale, no
// script and no external reference. Test: tests/report.cpp.

#include "io/svg.h"

#include <algorithm>
#include <cmath>

#include "engine/error.h"

namespace sutor {
namespace {

constexpr double kWidth = 860;  // of every view box; the page scales it
constexpr double kChar =
    7.4;  // a generous mean advance of the 12 px text in any sans-serif, to reserve room for labels
constexpr size_t kMaxPoints = 1200;  // of a line; longer ones are thinned
constexpr const char* kPalette[] = {"#2f7de1", "#e0591b", "#2f9e44", "#b34ad0",
                                    "#0c9fb0", "#d6336c", "#b58900", "#868e96"};

const char* palette(int i) {
  return kPalette[static_cast<size_t>(i < 0 ? -i : i) % std::size(kPalette)];
}

// Bytes of the UTF-8 character at `p`, 0 when there is none (also for overlong forms and
// surrogates).
size_t utf8_length(const unsigned char* p, size_t left) {
  auto tail = [&](size_t i, unsigned lo = 0x80, unsigned hi = 0xbf) {
    return i < left && p[i] >= lo && p[i] <= hi;
  };
  if (p[0] < 0x80) return 1;
  if (p[0] >= 0xc2 && p[0] <= 0xdf) return tail(1) ? 2 : 0;
  if (p[0] >= 0xe0 && p[0] <= 0xef)
    return tail(1, p[0] == 0xe0 ? 0xa0 : 0x80, p[0] == 0xed ? 0x9f : 0xbf) && tail(2) ? 3 : 0;
  if (p[0] >= 0xf0 && p[0] <= 0xf4)
    return tail(1, p[0] == 0xf0 ? 0x90 : 0x80, p[0] == 0xf4 ? 0x8f : 0xbf) && tail(2) && tail(3)
               ? 4
               : 0;
  return 0;
}

// At most `n` characters, the middle left out: names of runs differ at either end.
std::string shorten(std::string_view text, size_t n) {
  std::vector<std::string_view> chars;
  for (size_t i = 0; i < text.size();) {
    size_t len = std::max<size_t>(
        1, utf8_length(reinterpret_cast<const unsigned char*>(text.data()) + i, text.size() - i));
    chars.push_back(text.substr(i, len));
    i += len;
  }
  std::string out;
  for (size_t i = 0; i < chars.size(); ++i) {
    if (chars.size() > n && i == n / 2) {
      out += "\u2026";
      i = chars.size() - (n - n / 2 - 1);
    }
    out += chars[i];
  }
  return out;
}

size_t characters(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

double widest(const std::vector<std::string>& labels) {
  size_t n = 0;
  for (const std::string& s : labels) n = std::max(n, characters(s));
  return static_cast<double>(n) * kChar;
}

std::vector<std::string> shortened(const std::vector<std::string>& labels, size_t n) {
  std::vector<std::string> out;
  for (const std::string& s : labels) out.push_back(shorten(s, n));
  return out;
}

std::string text(double x, double y, const char* anchor, std::string_view s,
                 std::string_view more = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" {}>{}</text>\n", x, y,
                     anchor, more, escape_xml(s));
}

std::string open(double height, const std::string& title) {
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {:.0f} {:.0f}\" "
             "font-family=\"system-ui, sans-serif\" "
             "font-size=\"12\" fill=\"currentColor\">\n<title>{}</title>\n",
             kWidth, height, escape_xml(title)) +
         text(0, 15, "start", title, "font-size=\"14\" font-weight=\"600\"");
}

// Ticks at multiples of 1, 2 or 5 times a power of ten.
struct Axis {
  double lo = 0, hi = 1, step = 0.2;
  Axis(double low, double high, int ticks, bool whole) : lo(low), hi(high) {
    if (!(hi - lo > 1e-9 * std::max(std::abs(lo), std::abs(hi)))) {
      double d = lo == 0 ? 1 : std::abs(lo) * 0.1;
      lo -= d, hi += d;
    }
    double raw = (hi - lo) / ticks, ten = std::pow(10, std::floor(std::log10(raw)));
    step = raw <= ten ? ten : raw <= 2 * ten ? 2 * ten : raw <= 5 * ten ? 5 * ten : 10 * ten;
    if (whole) step = std::max(1.0, step);
  }
  // The slack absorbs rounding: a sum of 1 + 1e-16 needs no tick above 1.
  void round_out() {
    lo = std::floor(lo / step + 1e-6) * step, hi = std::ceil(hi / step - 1e-6) * step;
  }
  std::vector<double> ticks() const {
    std::vector<double> out;
    double first = std::ceil(lo / step - 1e-6);
    for (int i = 0; i < 20 && (first + i) * step <= hi + step * 1e-6; ++i)
      out.push_back((first + i) * step);
    return out;
  }
  std::string label(double v) const {
    if (std::abs(v) < step * 1e-6) return "0";
    if (step < 1e-4 || std::abs(v) >= 1e6) return fmt::format("{:.3g}", v);
    return fmt::format("{:.{}f}", v,
                       std::max(0, static_cast<int>(-std::floor(std::log10(step) + 1e-9))));
  }
};

// The lowest and the highest point of each of kMaxPoints / 2 pieces, in order: spikes stay visible.
std::vector<std::pair<double, double>> thin(const std::vector<std::pair<double, double>>& p) {
  if (p.size() <= kMaxPoints) return p;
  std::vector<std::pair<double, double>> out;
  size_t pieces = kMaxPoints / 2;
  for (size_t i = 0; i < pieces; ++i) {
    auto a = p.begin() + static_cast<int64_t>(i * p.size() / pieces),
         b = p.begin() + static_cast<int64_t>((i + 1) * p.size() / pieces);
    auto [lo, hi] = std::minmax_element(a, b, [](auto& l, auto& r) { return l.second < r.second; });
    out.push_back(std::min(lo, hi) == lo ? *lo : *hi);
    if (lo != hi) out.push_back(std::min(lo, hi) == lo ? *hi : *lo);
  }
  return out;
}

}  // namespace

std::string escape_xml(std::string_view s) {
  std::string out;
  for (size_t i = 0; i < s.size();) {
    auto p = reinterpret_cast<const unsigned char*>(s.data()) + i;
    size_t n = utf8_length(p, s.size() - i);
    bool control = n == 1 && (*p < 0x20 || *p == 0x7f) && *p != '\t' && *p != '\n';
    if (n == 0 || control)
      out += "\ufffd";
    else if (*p == '&')
      out += "&amp;";
    else if (*p == '<')
      out += "&lt;";
    else if (*p == '>')
      out += "&gt;";
    else if (*p == '"')
      out += "&quot;";
    else if (*p == '\'')
      out += "&#39;";
    else
      out += s.substr(i, n);
    i += std::max<size_t>(1, n);
  }
  return out;
}

std::string draw(const LineChart& c) {
  double x_lo = INFINITY, x_hi = -INFINITY, y_lo = c.y_from_zero ? 0 : INFINITY, y_hi = -INFINITY;
  auto see = [&](double x, double y) {
    if (!std::isfinite(x) || !std::isfinite(y) || std::abs(y) > 1e100)
      return;  // what cannot be scaled is not drawn
    x_lo = std::min(x_lo, x), x_hi = std::max(x_hi, x), y_lo = std::min(y_lo, y),
    y_hi = std::max(y_hi, y);
  };
  for (const ChartLine& l : c.lines)
    for (size_t i = 0; i < l.points.size(); ++i) {
      see(l.points[i].first, l.points[i].second);
      if (i < l.band.size())
        see(l.points[i].first, l.band[i].first), see(l.points[i].first, l.band[i].second);
    }
  bool any = x_lo <= x_hi;
  if (!any) x_lo = 0, x_hi = 1, y_lo = 0, y_hi = 1;
  Axis x(x_lo, x_hi, 9, true), y(y_lo, y_hi, 6, false);
  y.round_out();

  std::string legend;
  double lx = 0, ly = 34;
  for (const ChartLine& l : c.lines) {
    if (l.name.empty()) continue;
    std::string name = shorten(l.name, 40);
    double w = 34 + static_cast<double>(characters(name)) * kChar + 16;
    if (lx > 0 && lx + w > kWidth) lx = 0, ly += 18;
    legend += fmt::format(
        "<path d=\"M{:.1f} {:.1f}h24\" stroke=\"{}\" stroke-width=\"2.5\" fill=\"none\"{}/>\n", lx,
        ly - 4, palette(l.color), l.dashed ? " stroke-dasharray=\"5 4\"" : "");
    legend += text(lx + 30, ly, "start", name);
    lx += w;
  }
  double top = legend.empty() ? 34 : ly + 16, left = 64, right = kWidth - 24, bottom = top + 270;
  auto px = [&](double v) { return left + (v - x.lo) / (x.hi - x.lo) * (right - left); };
  auto py = [&](double v) { return bottom - (v - y.lo) / (y.hi - y.lo) * (bottom - top); };

  std::string s = open(bottom + 44, c.title) + legend;
  for (double v : y.ticks()) {
    s += fmt::format(
        "<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"currentColor\" stroke-opacity=\"0.15\"/>\n",
        left, py(v), right);
    s += text(left - 8, py(v) + 4, "end", y.label(v));
  }
  for (double v : x.ticks()) {
    s += fmt::format(
        "<path d=\"M{:.1f} {:.1f}v5\" stroke=\"currentColor\" stroke-opacity=\"0.5\"/>\n", px(v),
        bottom);
    s += text(px(v), bottom + 19, "middle", x.label(v));
  }
  s += fmt::format(
      "<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"currentColor\" stroke-opacity=\"0.5\"/>\n", left,
      bottom, right);
  s += text((left + right) / 2, bottom + 38, "middle", c.x_label);
  s += text(0, 0, "middle", c.y_label,
            fmt::format("transform=\"translate(13 {:.1f}) rotate(-90)\"", (top + bottom) / 2));
  if (!any) s += text((left + right) / 2, (top + bottom) / 2, "middle", "no finite values");

  for (const ChartLine& l : c.lines) {
    if (l.band.size() == l.points.size() && !l.band.empty()) {
      std::string forth, back;
      for (size_t i = 0; i < l.points.size(); ++i) {
        forth += fmt::format("{:.1f},{:.1f} ", px(l.points[i].first), py(l.band[i].second));
        back = fmt::format("{:.1f},{:.1f} ", px(l.points[i].first), py(l.band[i].first)) + back;
      }
      s += fmt::format("<polygon points=\"{}{}\" fill=\"{}\" fill-opacity=\"0.15\"/>\n", forth,
                       back, palette(l.color));
    }
    std::string d;
    bool pen = false;
    size_t drawn = 0;
    std::pair<double, double> last;
    for (auto [vx, vy] : thin(l.points)) {
      bool ok = std::isfinite(vx) && std::isfinite(vy) && std::abs(vy) <= 1e100;
      if (ok)
        d += fmt::format("{}{:.1f} {:.1f}", pen ? "L" : "M", px(vx), py(vy)), ++drawn,
            last = {vx, vy};
      pen = ok;
    }
    if (drawn == 1) {  // a path of one point shows nothing
      s += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\" fill=\"{}\"/>\n",
                       px(last.first), py(last.second), palette(l.color));
      continue;
    }
    if (drawn > 0)
      s += fmt::format(
          "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-linejoin=\"round\" "
          "stroke-width=\"{}\"{}{}/>\n",
          d, palette(l.color), l.faint ? 1 : 2, l.faint ? " stroke-opacity=\"0.35\"" : "",
          l.dashed ? " stroke-dasharray=\"5 4\"" : "");
  }
  return s + "</svg>\n";
}

std::string draw(const HeatMap& m) {
  check(m.values.size() == m.rows.size(), "heat map '{}': {} rows of values for {} names", m.title,
        m.values.size(), m.rows.size());
  double most = 0;
  for (const auto& row : m.values) {
    check(row.size() == m.columns.size(), "heat map '{}': {} values in a row of {} columns",
          m.title, row.size(), m.columns.size());
    for (double v : row)
      if (std::isfinite(v)) most = std::max(most, v);
  }
  std::vector<std::string> rows = shortened(m.rows, 28), columns = shortened(m.columns, 28);
  double left = widest(rows) + 14 + (m.y_label.empty() ? 0 : 20), top = 30,
         n = static_cast<double>(std::max<size_t>(1, columns.size()));
  double w = std::min(64.0, (kWidth - left - 4) / n), h = std::clamp(w, 24.0, 40.0);
  bool slanted = widest(columns) > w - 4 && widest(columns) > 3 * kChar;
  double bottom = top + h * static_cast<double>(rows.size()),
         foot = slanted ? widest(columns) * 0.65 + 20 : 20;
  double font = std::min(12.0, w * 0.62 / (m.decimals > 0 ? 1.6 : 1.0));

  std::string s = open(bottom + foot + (m.x_label.empty() ? 4 : 22), m.title);
  for (size_t r = 0; r < rows.size(); ++r) {
    double y = top + h * static_cast<double>(r);
    s += text(left - 8, y + h / 2 + 4, "end", rows[r]);
    for (size_t c = 0; c < columns.size(); ++c) {
      double x = left + w * static_cast<double>(c), v = m.values[r][c];
      bool ok = std::isfinite(v);
      double share = ok && most > 0 ? v / most : 0;
      std::string value = ok ? fmt::format("{:.{}f}", v, m.decimals) : "\u2013";
      s += fmt::format(
          "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"#1f63c6\" "
          "fill-opacity=\"{:.3f}\"><title>{}, {}: {}</title></rect>\n",
          x, y, w - 1, h - 1, 0.05 + 0.95 * share, escape_xml(m.rows[r]), escape_xml(m.columns[c]),
          value);
      // White on strong cells, else the page's text colour: contrast >= 3.9 in either scheme.
      if (font >= 7.5)
        s += text(x + (w - 1) / 2, y + h / 2 + font * 0.36, "middle", value,
                  fmt::format("font-size=\"{:.1f}\" pointer-events=\"none\"{}", font,
                              share > 0.75 ? " fill=\"#fff\"" : ""));
    }
  }
  size_t every = slanted
                     ? 1
                     : static_cast<size_t>(std::ceil(
                           (widest(columns) + 3) / w));  // not every label fits under narrow cells
  for (size_t c = 0; c < columns.size(); c += std::max<size_t>(1, every)) {
    double x = left + w * (static_cast<double>(c) + 0.5);
    if (slanted)
      s += text(
          0, 0, "end", columns[c],
          fmt::format("transform=\"translate({:.1f} {:.1f}) rotate(-38)\"", x + 4, bottom + 14));
    else
      s += text(x, bottom + 15, "middle", columns[c]);
  }
  if (!m.x_label.empty()) s += text(left + w * n / 2, bottom + foot + 14, "middle", m.x_label);
  if (!m.y_label.empty())
    s += text(0, 0, "middle", m.y_label,
              fmt::format("transform=\"translate(13 {:.1f}) rotate(-90)\"", (top + bottom) / 2));
  return s + "</svg>\n";
}

std::string draw(const BarChart& c) {
  check(c.values.size() == c.groups.size(), "bar chart '{}': {} groups of values for {} names",
        c.title, c.values.size(), c.groups.size());
  double lo = 0, hi = 0;
  for (const auto& g : c.values) {
    check(g.size() == c.series.size(), "bar chart '{}': {} values in a group of {}", c.title,
          g.size(), c.series.size());
    for (double v : g)
      if (std::isfinite(v)) lo = std::min(lo, v), hi = std::max(hi, v);
  }
  if (lo == hi) hi = 1;
  std::vector<std::string> groups = shortened(c.groups, 28);
  double left = widest(groups) + 14, right = kWidth - 64, y = c.series.size() > 1 ? 50 : 28,
         bar = 16;
  auto px = [&](double v) { return left + (v / (hi - lo) - lo / (hi - lo)) * (right - left); };
  double pitch = bar * static_cast<double>(c.series.size()) + 12;
  std::string s = open(y + pitch * static_cast<double>(groups.size()), c.title);
  if (c.series.size() > 1) {
    double x = 0;
    for (size_t k = 0; k < c.series.size(); ++k) {
      std::string name = shorten(c.series[k], 30);
      s += fmt::format("<rect x=\"{:.1f}\" y=\"25\" width=\"12\" height=\"12\" fill=\"{}\"/>\n", x,
                       palette(static_cast<int>(k)));
      s += text(x + 18, 35, "start", name);
      x += 18 + static_cast<double>(characters(name)) * kChar + 16;
    }
  }
  for (size_t g = 0; g < groups.size(); ++g, y += pitch) {
    s += text(left - 8, y + (pitch - 12) / 2 + 4, "end", groups[g]);
    for (size_t k = 0; k < c.series.size(); ++k) {
      double v = c.values[g][k], top = y + bar * static_cast<double>(k);
      std::string value = std::isfinite(v) ? fmt::format("{:.4g}", v) : "\u2013",
                  label = escape_xml(c.groups[g] + ", " + c.series[k]);
      double a = px(0), b = std::isfinite(v) ? px(v) : a;
      s += fmt::format(
          "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" "
          "fill=\"{}\"><title>{}: {}</title></rect>\n",
          std::min(a, b), top, std::abs(b - a), bar - 2, palette(static_cast<int>(k)), label,
          value);
      s += text(std::max(a, b) + 6, top + bar - 5, "start", value);
    }
  }
  return s + "</svg>\n";
}

}  // namespace sutor
