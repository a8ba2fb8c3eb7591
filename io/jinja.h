#pragma once
// A small strict Jinja for chat templates, with trim_blocks and lstrip_blocks on. What it does not
// know is an error.

#include <cstddef>
#include <ctime>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace sutor::jinja {

using Json = nlohmann::ordered_json;

struct Rendered {
  std::string text;
  std::vector<std::pair<size_t, size_t>>
      generation;  // byte spans [begin, end) of {% generation %} blocks
};

// `now` is what strftime_now() prints, in UTC.
Rendered render_spans(std::string_view template_text, const Json& variables, std::time_t now = 0);
std::string render(std::string_view template_text, const Json& variables, std::time_t now = 0);

}  // namespace sutor::jinja
