#pragma once
// JSON from untrusted files: size and depth caps, duplicate keys refused, errors that name file and key.

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engine/error.h"

namespace sutor {

using Json = nlohmann::ordered_json;

// `where` names the file in messages. Throws on bad syntax, duplicate keys, more than max_depth levels.
Json parse_json(std::string_view text, const std::string& where, int max_depth = 64);
Json read_json_file(const std::string& path);  // at most 1 GiB

// j[key] as T; the error says what was found instead.
template <class T>
T get(const Json& j, const std::string& key, const std::string& where) {
  auto it = j.find(key);
  check(it != j.end(), "{}: key {} is missing", where, key);
  bool ok;
  if constexpr (std::is_same_v<T, bool>) ok = it->is_boolean();
  else if constexpr (std::is_integral_v<T>) ok = it->is_number_integer();
  else if constexpr (std::is_floating_point_v<T>) ok = it->is_number();
  else if constexpr (std::is_same_v<T, std::string>) ok = it->is_string();
  else ok = true;
  check(ok, "{}: {} is {}, which has the wrong type", where, key, it->dump().substr(0, 60));
  return it->template get<T>();
}

}  // namespace sutor
