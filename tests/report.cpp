// The report page: well-formed, escaped, no scripts or external resources, missing pieces noted;
// the charts by themselves.
#include "model/report.h"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>

#include "io/file.h"
#include "io/svg.h"

using namespace sutor;
namespace fs = std::filesystem;

namespace {

std::string folder(const std::string& name) {
  std::string dir = "build/test-report/" + name;
  fs::remove_all(dir);
  fs::create_directories(dir);
  return dir;
}

void put(const std::string& path, const std::string& text) { write_file_atomic(path, text); }

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// "" when every tag is closed in order, attributes are quoted and every & begins an entity; else
// what is wrong.
std::string malformed(const std::string& s) {
  std::vector<std::string> open;
  for (size_t i = 0; i < s.size();) {
    if (s[i] == '&') {
      size_t end = s.find(';', i);
      if (end == std::string::npos || end - i > 6) return "bare & at " + s.substr(i, 20);
    }
    if (s[i] == '>') return "bare > at " + s.substr(i, 20);
    if (s[i] != '<') {
      ++i;
      continue;
    }
    size_t j = i + 1;
    bool quoted = false;
    for (; j < s.size() && (quoted || s[j] != '>'); ++j) {
      if (s[j] == '"') quoted = !quoted;
      if (s[j] == '<') return "< inside a tag at " + s.substr(i, 40);
    }
    if (j >= s.size()) return "unclosed tag at " + s.substr(i, 40);
    std::string tag = s.substr(i + 1, j - i - 1);
    i = j + 1;
    if (tag[0] == '!') continue;
    std::string name = tag.substr(tag[0] == '/', tag.find_first_of(" \n/", 1) - (tag[0] == '/'));
    if (tag[0] == '/') {
      if (open.empty() || open.back() != name)
        return "</" + name + "> closes " + (open.empty() ? "nothing" : open.back());
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(name);
    }
  }
  return open.empty() ? "" : "never closed: " + open.back();
}

std::string error_of(const std::vector<std::string>& dirs) {
  try {
    make_report(dirs);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

const char* kEvil = "<script>alert(\"x\")</script> & 'y'";

std::string scores_json(const std::vector<std::vector<double>>& layers) {
  std::string rows;
  for (size_t l = 0; l < layers.size(); ++l) {
    rows += fmt::format("{}\"{}\":{{", l ? "," : "", l + 1);
    for (size_t e = 0; e < layers[l].size(); ++e)
      rows += fmt::format("{}\"{}\":{}", e ? "," : "", e, layers[l][e]);
    rows += "}";
  }
  return "{\"token_scores\":{" + rows + "},\"gate_scores\":{" + rows + "}}";
}

}  // namespace

TEST_CASE("report: the checker of well-formedness finds what it should") {
  CHECK(malformed("<!DOCTYPE html><a b=\"c > d\"><d/>&amp;</a>").empty());
  for (const char* bad : {"<a>", "<a></b>", "</a>", "a & b", "a > b", "<a b=\"<\"></a>", "<a"})
    CHECK(!malformed(bad).empty());
}

TEST_CASE("report: everything at once, escaped and well-formed") {
  std::string a = folder("a <b>&"), b = folder("plain");
  put(a + "/log.jsonl",
      "{\"config\":\"c\"}\n{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"loss\":null,\"eval_loss\":2.25}"
      "\n{\"step\":3,\"loss\":1.5}\n");
  put(a + "/results.json",
      fmt::format("{{\"rows\":[{{\"method\":\"{}\",\"task\":16.5,\"general\":62.25,\"trainable\":0,"
                  "\"stored_bytes\":0,\"tokens_per_s\":null}},"
                  "{{\"method\":\"ESFT\",\"task\":75.5,\"general\":61.25,\"trainable\":1234567,"
                  "\"stored_bytes\":2147483648,\"tokens_per_s\":812,\"extra\":\"<i>\"}}]}}",
                  "<script>alert(\\\"x\\\")</script> & 'y'"));
  put(a + "/scores.json", scores_json({{0.5, 0.25, 0.25, 0, 0, 0, 0, 0},
                                       {0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125}}));
  put(a + "/run.yaml", kEvil);
  fs::create_directories(a + "/adapter");
  put(a + "/adapter/expert_cfg.json",
      R"({"experts":{"1":[0,1],"2":[0,1,2]},"shared_experts":true,"non_expert_modules":false})");
  put(b + "/scores.json", scores_json({{0, 0, 0.125, 0, 0.125, 0.25, 0.25, 0.25},
                                       {0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125}}));
  std::string page = make_report({a, b});
  CHECK(malformed(page) == "");
  CHECK(!has(page, "<script"));
  CHECK(!has(page, "<i>"));
  CHECK(!has(page, "a <b>"));
  for (const char* external : {"href", "src=", "url(", "@import", "javascript"})
    CHECK(!has(page, external));
  for (const char* part :
       {"&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; &#39;y&#39;", "a &lt;b&gt;&amp;",
        "(+59)", "2.0 GiB", "Training loss", "Evaluation loss", "a &lt;b&gt;&amp;, 2: 3</title>",
        "Left out (no expert_cfg.json): plain.", "Left out (no run.yaml): plain.",
        "prefers-color-scheme: dark"})
    CHECK_MESSAGE(has(page, part), part);
  // Top 2 of 8: layer 1 {0,1} and {5,6}, none shared; layer 2 all tie, both shared.
  CHECK(has(page, "a &lt;b&gt;&amp;, plain: 1.00</title>"));
  // Few experts are drawn one by one.
  CHECK(has(page, "Layer 1: which experts the tokens take, %"));
  CHECK(has(page, "plain, 2: 12</title>"));
  CHECK(make_report({a, b}) == page);
}

TEST_CASE("report: what is missing is skipped with a note") {
  std::string dir = folder("only-settings");
  put(dir + "/run.yaml", "lr: 1");
  std::string page = make_report({dir});
  CHECK(malformed(page) == "");
  for (const char* part : {"No results.json", "No log.jsonl", "No scores.json",
                           "No expert_cfg.json", "two folders or more", "lr: 1"})
    CHECK_MESSAGE(has(page, part), part);
  CHECK(!has(page, "<svg"));

  std::string killed = folder("killed");
  put(killed + "/log.jsonl", "{\"step\":1,\"loss\":2}\n{\"step\":2,\"lo");
  CHECK(has(make_report({killed}), "killed: the last line of its log is cut off."));
  put(killed + "/log.jsonl", "{\"step\":1,\"loss\":null}\n");
  page = make_report({killed});
  CHECK(malformed(page) == "");
  CHECK(has(page, "no finite values"));
}

TEST_CASE("report: the experts' load, where a log has it") {
  std::string on = folder("balanced"), dense = folder("dense");
  put(on + "/log.jsonl",
      "{\"step\":1,\"loss\":2,\"aux_loss\":1.5,\"load_cv\":[0.5,1]}\n"
      "{\"step\":2,\"loss\":1,\"aux_loss\":1.25,\"load_cv\":[0.25,0.5]}\n");
  put(dense + "/log.jsonl", "{\"step\":1,\"loss\":2}\n");
  const std::string page = make_report({dense, on});
  CHECK(malformed(page) == "");
  for (const char* part : {"<h2>Expert load</h2>", "Unevenness of the experts", "Balance loss"})
    CHECK_MESSAGE(has(page, part), part);
  CHECK(!has(make_report({dense}), "Expert load"));
  put(on + "/log.jsonl", "{\"step\":1,\"load_cv\":[\"a\"]}\n");
  CHECK(has(error_of({on}), "log.jsonl:1: load_cv is no list of numbers"));
}

TEST_CASE("report: models that differ are not compared; equal folder names are told apart") {
  std::string a = folder("x/run"), b = folder("y/run");
  put(a + "/scores.json", scores_json({{0.5, 0.5}}));
  put(b + "/scores.json", scores_json({{0.5, 0.25, 0.25}}));
  std::string page = make_report({a, b + "/"});
  CHECK(malformed(page) == "");
  CHECK(has(page, "x/run, y/run: \u2013</title>"));
  CHECK(has(page, "cannot be compared"));
  CHECK(!has(page, fs::absolute("build").string()));
}

TEST_CASE("report: kernels under the roof, where a folder has a bench.json") {
  std::string dir = folder("bench");
  auto bench = [&](const char* gflops) {
    put(dir + "/bench.json",
        fmt::format(
            "{{\"kernels\":\"amx\",\"dtype\":\"bf16\",\"threads\":2,\"bf16_gflops\":4000,"
            "\"f32_gflops\":350,\"read_gbps\":30,\"rows\":["
            "{{\"kernel\":\"a <b>\",\"shape\":\"2 -> 3\",\"tokens\":16,\"gflops\":300,\"gbps\":"
            "20}},{{\"kernel\":\"c\",\"shape\":\"4\",\"tokens\":1024,\"gflops\":{},\"gbps\":2}}]}}",
            gflops));
    return error_of({dir});
  };
  REQUIRE(bench("2000") == "");
  std::string page = make_report({dir});
  CHECK(malformed(page) == "");
  for (const char* part :
       {"Kernels under the roof: amx, bf16, 2 threads", "4000 GFLOP/s, 30.0 GB/s",
        // 15 flop a byte: memory allows 450
        "a &lt;b&gt;, 2 -&gt; 3, 16 tokens: 300 GFLOP/s, 67 % of the roof</title>",
        "c, 4, 1024 tokens: 2000 GFLOP/s, 50 % of the roof</title>"})
    CHECK_MESSAGE(has(page, part), part);
  CHECK(has(bench("0"), "rows[1]: 0 GFLOP/s and 2 GB/s"));
  CHECK(has(bench("1e308"), "rows[1]: 1e+308 GFLOP/s"));
  CHECK(has(bench("\"x\""), "\"gflops\" must be a number"));
  put(dir + "/bench.json", "{\"rows\":[]}");
  CHECK(has(error_of({dir}), "\"kernels\" is missing"));
}

TEST_CASE("report: errors name the folder, the file and the line") {
  std::string dir = folder("bad");
  CHECK(has(error_of({}), "no folders"));
  CHECK(has(error_of({dir}), dir + ": holds nothing to report on"));
  CHECK(has(error_of({dir + "/none"}), "no such folder"));
  auto with = [&](const char* file, const char* text) {
    std::string d = folder("bad");
    put(d + "/" + file, text);
    return error_of({d});
  };
  CHECK(has(with("log.jsonl", "{\"step\":1,\"loss\":1}\n{oops}\n"), "log.jsonl:2"));
  CHECK(has(with("log.jsonl", "{\"step\":1,\"loss\":\"1\"}\n"), "\"loss\" must be a number"));
  CHECK(has(with("log.jsonl", "[]\n"), "expected an object, found array"));
  CHECK(has(with("results.json", "{}"), "has no list \"rows\""));
  CHECK(
      has(with("results.json", "{\"rows\":[{\"task\":1}]}"), "rows[0]: key \"method\" is missing"));
  CHECK(has(with("results.json", "{\"rows\":[{\"method\":\"a\",\"task\":\"x\"}]}"),
            "\"task\" must be a number"));
  CHECK(has(with("results.json", "{\"rows\":[{\"method\":\"a\",\"x\":[1]}]}"),
            "\"x\" must be text or a number, found array"));
  CHECK(has(with("results.json", "{\"rows\":[3]}"), "rows[0]"));
}

TEST_CASE("svg: escapes, broken UTF-8, awkward numbers") {
  CHECK(escape_xml("<a href=\"x\">'&'</a>") ==
        "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
  CHECK(escape_xml("\u00e9\u2192") == "\u00e9\u2192");
  CHECK(escape_xml("a\xff\x01\xc3z\xed\xa0\x80") == "a\ufffd\ufffd\ufffdz\ufffd\ufffd\ufffd");
  std::vector<std::pair<double, double>> many;
  for (int i = 0; i < 100000; ++i) many.push_back({i, i == 50001 ? 1000.0 : 1.0});
  std::string s = draw(LineChart{"long", "x", "y", {{"l", many, {}, 0, false, false}}, false});
  CHECK(s.size() < 40000);
  CHECK(malformed(s) == "");
  CHECK(has(s, ">1000<"));  // the spike is not lost
  for (double v : std::vector<double>{0, 1, -5, 1e-300, 1e90, 1e200, INFINITY, NAN}) {
    CAPTURE(v);
    s = draw(LineChart{"t", "x", "y", {{"l", {{1, v}, {2, v}}, {}, 0, false, false}}, false}) +
        draw(HeatMap{"t", "x", "y", {"r"}, {"c"}, {{std::abs(v)}}, 2}) +
        draw(BarChart{"t", {"g"}, {"s"}, {{v}}});
    CHECK(malformed(s) == "");
    CHECK(!has(s, "nan"));
    CHECK(!has(s, "inf"));
    CHECK(s.size() < 20000);
  }
  CHECK(malformed(draw(LineChart{}) + draw(HeatMap{}) + draw(BarChart{})) == "");
  CHECK_THROWS_AS(draw(HeatMap{"t", "", "", {"r"}, {"c"}, {{1, 2}}, 0}), Error);
}
