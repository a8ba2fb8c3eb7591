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
