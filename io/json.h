#pragma once
// JSON read from files we do not trust: duplicate keys, deep nesting and oversized texts are
// refused (nlohmann accepts them). Object order is kept. Lookups in an object are linear: iterate
// over large objects (weight maps) instead.

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>

#include "engine/error.h"

namespace sutor {

using Json = nlohmann::ordered_json;

constexpr size_t kJsonMaxBytes = size_t{1} << 28;

// What a JSON error says, without the library's own tag.
inline std::string reason(const nlohmann::json::exception& e) {
  std::string s = e.what();
  size_t tag = s.starts_with("[json.exception.") ? s.find("] ") : s.npos;
  return tag == s.npos ? s : s.substr(tag + 2);
}

// `where` is the file named in errors.
Json parse_json(std::string_view text, const std::string& where, int max_depth = 64,
                size_t max_bytes = kJsonMaxBytes);
Json read_json_file(const std::string& path);

// obj[key] as T; errors name the file, the key and the type found. Integers must fit T; no float ->
// int.
template <class T>
T get(const Json& obj, const std::string& key, const std::string& where) {
  check(obj.is_object(), "{}: expected an object around \"{}\", found {}", where, key,
        obj.type_name());
  auto it = obj.find(key);
  check(it != obj.end(), "{}: key \"{}\" is missing", where, key);
  const Json& v = *it;
  auto want = [&](bool ok, const char* type) {
    check(ok, "{}: key \"{}\" must be {}, found {} {}", where, key, type, v.type_name(),
          v.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60));
  };
  if constexpr (std::is_same_v<T, bool>) {
    want(v.is_boolean(), "true or false");
  } else if constexpr (std::is_integral_v<T>) {
    want(v.is_number_integer(), "an integer");
    bool fits = v.is_number_unsigned() ? std::in_range<T>(v.template get<uint64_t>())
                                       : std::in_range<T>(v.template get<int64_t>());
    want(fits, std::is_unsigned_v<T> ? "an integer in range (>= 0)" : "an integer in range");
  } else if constexpr (std::is_floating_point_v<T>) {
    want(v.is_number(), "a number");
  } else if constexpr (std::is_same_v<T, std::string>) {
    want(v.is_string(), "a string");
  }
  try {
    return v.template get<T>();
  } catch (const nlohmann::json::exception& e) {
    fail("{}: key \"{}\": {}", where, key, reason(e));
  }
}

// The fallback when the key is absent or null.
template <class T>
T get_or(const Json& obj, const std::string& key, T fallback, const std::string& where) {
  if (obj.is_object()) {
    auto it = obj.find(key);
    if (it == obj.end() || it->is_null()) return fallback;
  }
  return get<T>(obj, key, where);
}

}  // namespace sutor
