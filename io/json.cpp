#include "io/json.h"

#include <unordered_set>
#include <vector>

#include "io/file.h"

namespace sutor {
namespace {

// Builds the document while watching depth and keys; nlohmann's own DOM keeps the last of duplicate keys silently.
class Builder : public nlohmann::detail::json_sax_dom_parser<Json> {
  using Base = nlohmann::detail::json_sax_dom_parser<Json>;

 public:
  Builder(Json& out, const std::string& where, int max_depth) : Base(out, false), where_(where), max_depth_(max_depth) {}
  bool start_object(std::size_t n) {
    push();
    keys_.emplace_back();
    return Base::start_object(n);
  }
  bool end_object() {
    --depth_;
    keys_.pop_back();
    return Base::end_object();
  }
  bool start_array(std::size_t n) {
    push();
    return Base::start_array(n);
  }
  bool end_array() {
    --depth_;
    return Base::end_array();
  }
  bool key(std::string& k) {
    check(keys_.back().insert(k).second, "{}: key \"{}\" appears twice in one object", where_, k);
    return Base::key(k);
  }
  template <class E>
  bool parse_error(std::size_t at, const std::string&, const E& e) {
    std::string what = e.what();
    fail("{}: not valid JSON at byte {}: {}", where_, at, what.substr(what.find("] ") == std::string::npos ? 0 : what.find("] ") + 2));
  }

 private:
  void push() { check(++depth_ <= max_depth_, "{}: nested deeper than {} levels", where_, max_depth_); }
  const std::string& where_;
  int max_depth_, depth_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& where, int max_depth) {
  Json out;
  Builder builder(out, where, max_depth);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return out;
}

Json read_json_file(const std::string& path) { return parse_json(read_file(path), path); }

}  // namespace sutor
