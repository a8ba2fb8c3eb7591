// The template interpreter against jinja2 (tests/goldens/make_jinja.py).
#include "io/jinja.h"

#include <doctest/doctest.h>

#include <fstream>

#include "engine/error.h"
#include "io/chat.h"

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

TEST_CASE("jinja: generation spans are what trains, answer by answer") {
  ChatTemplate chat(
      "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}$"
      "{% endgeneration %}{% else %}U:{{ m.content }}{% endif %}{% endfor %}.",
      Json::object());
  auto parts = chat.parts({{"user", "é", false},
                           {"assistant", "b", true},
                           {"user", "c", false},
                           {"assistant", "d", false}});
  std::string all;
  for (const ChatPart& p : parts) all += fmt::format("[{}{}]", p.train ? "+" : "-", p.text);
  CHECK(all == "[-U:éA:][+b$][-U:cA:][-d$][-.]");
  // Spans that are not the row's answers, or whose place in the text is unknown, are errors.
  ChatTemplate once("{% generation %}{{ messages | length }}{% endgeneration %}", Json::object());
  CHECK_THROWS_AS(once.parts({{"user", "a", false}}), Error);
  ChatTemplate inside("{% set x %}{% generation %}a{% endgeneration %}{% endset %}{{ x }}",
                      Json::object());
  CHECK_THROWS_AS(inside.parts({{"assistant", "a", true}}), Error);
}
