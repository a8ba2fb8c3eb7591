// The template interpreter against jinja2 (tests/goldens/make_jinja.py).
#include "io/jinja.h"

#include <doctest/doctest.h>

#include <fstream>

#include "engine/error.h"

using namespace sutor;

TEST_CASE("jinja: cases equal jinja2's output") {
  auto g = jinja::Json::parse(std::ifstream("tests/goldens/jinja/cases.json"));
  for (auto& c : g["cases"]) {
    const auto t = c["template"].get<std::string>();
    CAPTURE(t);
    if (c.contains("error"))
      CHECK_THROWS_AS(jinja::render(t, g["variables"]), Error);
    else
      CHECK(jinja::render(t, g["variables"]) == c["out"].get<std::string>());
  }
}

TEST_CASE("jinja: break and continue out of a captured body leave what was printed") {
  const jinja::Json none = jinja::Json::object();
  CHECK(jinja::render("a{% for i in [1, 2] %}b{% set x %}c{% break %}{% endset %}{% endfor %}d",
                      none) == "abd");
  CHECK(jinja::render(
            "a{% for i in [1, 2] %}b{% filter upper %}c{% continue %}{% endfilter %}e{% endfor %}d",
            none) == "abbd");
  // Nothing is captured any more: spans are seen again.
  auto r = jinja::render_spans(
      "{% for i in [1] %}{% set x %}c{% break %}{% endset %}{% endfor %}{% generation %}g{% "
      "endgeneration %}",
      none);
  CHECK(r.text == "g");
  CHECK(r.generation.size() == 1);
}
