// The strict JSON reader: a SAX handler over nlohmann's parser that refuses duplicate keys and deep
// nesting and builds the tree itself. Test: tests/safetensors.cpp, tests/robustness.cpp.

#include "io/json.h"

#include <unordered_set>
#include <vector>

#include "io/file.h"

namespace sutor {
namespace {

// Builds the tree itself: ordered_json's own insertion searches linearly, quadratic for a map of
// 90,000 tensors.
struct Builder : nlohmann::json_sax<Json> {
  using Object = Json::object_t;
  const std::string& where;
  size_t max_depth;
  Json root;
  std::vector<Json*> open;
  std::vector<std::unordered_set<std::string>> seen;  // per open object
  std::string name;

  Builder(const std::string& w, int depth) : where(w), max_depth(depth) {}

  Json* add(Json v) {
    if (open.empty()) {
      root = std::move(v);
      return &root;
    }
    Json& top = *open.back();
    if (top.is_array()) return &top.get_ref<Json::array_t&>().emplace_back(std::move(v));
    Object::Container& items = top.get_ref<Object&>();
    return &items.emplace_back(name, std::move(v)).second;
  }
  bool begin(Json v) {
    check(open.size() < max_depth, "{}: JSON nested deeper than {}", where, max_depth);
    Json* p = add(std::move(v));
    open.push_back(p);
    seen.emplace_back();
    return true;
  }
  bool end() {
    open.pop_back();
    seen.pop_back();
    return true;
  }
  bool put(Json v) { return add(std::move(v)), true; }
  bool null() override { return put(nullptr); }
  bool boolean(bool v) override { return put(v); }
  bool number_integer(int64_t v) override { return put(v); }
  bool number_unsigned(uint64_t v) override { return put(v); }
  bool number_float(double v, const std::string&) override { return put(v); }
  bool string(std::string& v) override { return put(v); }
  bool binary(Json::binary_t&) override { return false; }
  bool start_object(size_t) override { return begin(Json::object()); }
  bool start_array(size_t) override { return begin(Json::array()); }
  bool end_object() override { return end(); }
  bool end_array() override { return end(); }
  bool key(std::string& v) override {
    check(seen.back().insert(v).second, "{}: duplicate key \"{}\"", where, v.substr(0, 100));
    name = v;
    return true;
  }
  bool parse_error(size_t at, const std::string&, const nlohmann::json::exception& e) override {
    std::string why = reason(e);
    // "parse error at line 1, column 9: ", and the byte is said already.
    if (size_t colon = why.find(": "); why.starts_with("parse error") && colon != why.npos)
      why.erase(0, colon + 2);
    fail("{}: invalid JSON at byte {}: {}", where, at, why.substr(0, 200));
  }
};

}  // namespace

Json parse_json(std::string_view text, const std::string& where, int max_depth, size_t max_bytes) {
  check(text.size() <= max_bytes, "{}: {} bytes of JSON, at most {} allowed", where, text.size(),
        max_bytes);
  Builder b(where, max_depth);
  Json::sax_parse(text.begin(), text.end(), &b);
  return std::move(b.root);
}

Json read_json_file(const std::string& path) {
  return parse_json(read_file(path, kJsonMaxBytes), path);
}

}  // namespace sutor
