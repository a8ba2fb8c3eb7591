#pragma once
// Charts as inline SVG text: lines with axes, a legend and bands; heat maps with values; horizontal
// bars; rooflines. No scripts, no external resources, no ids. Colours are mid-tones readable on
// white and on black; text takes the page's colour (currentColor). Every chart is role="img" with a
// <title>; heat-map cells and bars carry one each. Test: tests/report.cpp.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sutor {

// For text and quoted attributes of XML and HTML; control characters and bytes that are no UTF-8
// become U+FFFD.
std::string escape_xml(std::string_view text);

struct ChartLine {
  std::string name;                               // "" = not in the legend
  std::vector<std::pair<double, double>> points;  // a non-finite y interrupts the line
  std::vector<std::pair<double, double>> band;    // per point: low, high (shaded); or empty
  int color = 0;                                  // index into the palette, any number
  bool dashed = false;
  bool faint = false;  // thin and translucent, for one of many
};

struct LineChart {
  std::string title, x_label, y_label;
  std::vector<ChartLine> lines;
  bool y_from_zero = false;
};

struct HeatMap {
  std::string title, x_label, y_label;
  std::vector<std::string> rows, columns;
  std::vector<std::vector<double>> values;  // [rows][columns], >= 0; NaN = no value
  int decimals = 0;
};

struct BarChart {
  std::string title;
  std::vector<std::string> groups, series;
  std::vector<std::vector<double>> values;  // [groups][series]; NaN = no value
};

struct RooflinePoint {
  std::string name, detail;  // one colour and one line of the legend for each name
  double flop_per_byte, gflops;
};

struct Roofline {
  std::string title;
  double peak_gflops, read_gbps;
  std::vector<RooflinePoint> points;
};

std::string draw(const LineChart& chart);
std::string draw(const HeatMap& map);
std::string draw(const BarChart& chart);
std::string draw(const Roofline& roofline);  // throws for values <= 0

}  // namespace sutor
