#include "io/tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <optional>

#include "io/tokenizer_parts.h"

namespace sutor {
namespace fs = std::filesystem;
using namespace tok;
namespace {

struct Added {
  std::string content;
  int32_t id;
  bool special, normalized, single_word, lstrip, rstrip;
};

struct Template {  // a post-processor's pieces: ids before and after the text
  std::vector<int32_t> before, after;
};

std::string token_text(const Json& v) { return v.is_object() && v.contains("content") ? v["content"].get<std::string>() : v.is_string() ? v.get<std::string>() : ""; }

}  // namespace

struct Tokenizer::Impl {
  std::string where;
  std::unique_ptr<Bpe> bpe;
  Normalizer normalize;
  PreTokenizer pre;
  Decoder decode;
  Template post;
  std::vector<Added> added;
  std::unordered_map<int32_t, const Added*> added_by_id;
  std::unordered_map<std::string, int32_t> added_ids;
  std::vector<std::vector<int>> raw_by_byte, normal_by_byte;  // added tokens by first byte, longest first

  void index_added() {
    raw_by_byte.assign(256, {});
    normal_by_byte.assign(256, {});
    for (size_t i = 0; i < added.size(); ++i) {
      added_by_id[added[i].id] = &added[i];
      added_ids[added[i].content] = added[i].id;
      std::string key = added[i].normalized ? normalize(added[i].content) : added[i].content;
      if (key.empty()) continue;
      (added[i].normalized ? normal_by_byte : raw_by_byte)[static_cast<unsigned char>(key[0])].push_back(static_cast<int>(i));
    }
    for (auto* table : {&raw_by_byte, &normal_by_byte})
      for (auto& v : *table)
        std::stable_sort(v.begin(), v.end(), [&](int a, int b) { return added[a].content.size() > added[b].content.size(); });
  }

  // Cuts s at the added tokens of one table: fn(text) for what lies between, token(id) for them.
  template <class F, class G>
  void cut(std::string_view s, bool normalized, bool parse_special, F&& fn, G&& token) const {
    const auto& table = normalized ? normal_by_byte : raw_by_byte;
    size_t from = 0, at = 0;
    while (at < s.size()) {
      const Added* hit = nullptr;
      std::string key;
      for (int i : table[static_cast<unsigned char>(s[at])]) {
        const Added& a = added[i];
        if (a.special && !parse_special) continue;
        key = normalized ? normalize(a.content) : a.content;
        if (s.compare(at, key.size(), key) != 0) continue;
        if (a.single_word && (word_before(s, at) || word_after(s, at + key.size()))) continue;
        hit = &a;
        break;
      }
      if (hit == nullptr) {
        ++at;
        continue;
      }
      size_t b = at, e = at + key.size();
      if (hit->lstrip) b = space_begin(s, from, b);
      if (hit->rstrip)
        for (size_t i = e; i < s.size() && is_space(next_char(s, i)); e = i) {
        }
      if (b > from) fn(s.substr(from, b - from));
      token(hit->id);
      from = at = e;
    }
    if (from < s.size()) fn(s.substr(from));
  }

  static size_t char_before(std::string_view s, size_t at) {
    do --at;
    while (at > 0 && (static_cast<unsigned char>(s[at]) & 0xc0) == 0x80);
    return at;
  }
  static bool word_before(std::string_view s, size_t at) {
    if (at == 0) return false;
    size_t i = char_before(s, at);
    return is_word(next_char(s, i));
  }
  static bool word_after(std::string_view s, size_t at) { return at < s.size() && is_word(next_char(s, at)); }
  static size_t space_begin(std::string_view s, size_t from, size_t at) {
    while (at > from) {
      size_t b = char_before(s, at), i = b;
      if (!is_space(next_char(s, i))) break;
      at = b;
    }
    return at;
  }

  void text(std::string_view s, bool first, std::vector<int32_t>& out) const {
    for (const Piece& p : pre({Piece{std::string(s), first}})) bpe->encode(p.text, out);
  }

  int32_t id_of(std::string_view token) const {
    auto it = added_ids.find(std::string(token));
    return it != added_ids.end() ? it->second : bpe->id_of(token);
  }

  void read_post(const Json& j) {
    if (j.is_null()) return;
    std::string type = get<std::string>(j, "type", where);
    if (type == "ByteLevel") return;  // offsets only
    if (type == "Sequence") {
      for (const Json& p : get<Json>(j, "processors", where)) read_post(p);
      return;
    }
    check(type == "TemplateProcessing", "{}: post_processor type {} is not known (ByteLevel TemplateProcessing Sequence)", where, type);
    bool seen = false;
    for (const Json& part : get<Json>(j, "single", where)) {
      if (part.contains("Sequence")) {
        seen = true;
        continue;
      }
      check(part.contains("SpecialToken"), "{}: post_processor: {} is not known", where, part.dump());
      std::string id = get<std::string>(part["SpecialToken"], "id", where);
      const Json& tokens = get<Json>(j, "special_tokens", where);
      check(tokens.contains(id) && tokens[id].contains("ids"), "{}: post_processor: special token {} has no ids", where, id);
      for (const Json& v : tokens[id]["ids"]) (seen ? post.after : post.before).push_back(v.get<int32_t>());
    }
  }
};

Tokenizer Tokenizer::load(const std::string& folder) {
  std::string file = folder + "/tokenizer.json", config_file = folder + "/tokenizer_config.json";
  check(fs::exists(file), "{}: no tokenizer.json", folder);
  auto impl = std::make_shared<Impl>();
  Impl& t = *impl;
  t.where = file;
  Json j = read_json_file(file);
  check(j.is_object() && j.contains("model"), "{}: has no model", file);
  auto part = [&](const char* key) { return j.contains(key) ? j[key] : Json(); };
  t.bpe = std::make_unique<Bpe>(j["model"], file);
  t.normalize = make_normalizer(part("normalizer"), file + ": normalizer");
  t.pre = make_pre_tokenizer(part("pre_tokenizer"), file + ": pre_tokenizer");
  t.decode = make_decoder(part("decoder"), file + ": decoder");
  for (const Json& a : j.contains("added_tokens") ? j["added_tokens"] : Json::array()) {
    auto flag = [&](const char* key, bool fallback) { return a.contains(key) ? get<bool>(a, key, file) : fallback; };
    t.added.push_back({get<std::string>(a, "content", file), get<int32_t>(a, "id", file), flag("special", false), flag("normalized", true),
                       flag("single_word", false), flag("lstrip", false), flag("rstrip", false)});
  }
  t.index_added();
  t.read_post(part("post_processor"));
  Tokenizer out;
  out.impl_ = impl;
  if (fs::exists(config_file)) {
    Json c = read_json_file(config_file);
    if (c.contains("bos_token")) out.bos_ = t.id_of(token_text(c["bos_token"]));
    if (c.contains("eos_token")) out.eos_ = t.id_of(token_text(c["eos_token"]));
    // LlamaTokenizerFast rebuilds its post-processor from these two; other classes keep the file's.
    std::string cls = c.value("tokenizer_class", "");
    if (cls == "LlamaTokenizerFast" || cls == "LlamaTokenizer") {
      t.post = {};
      if (c.value("add_bos_token", true) && out.bos_ >= 0) t.post.before.push_back(out.bos_);
      if (c.value("add_eos_token", false) && out.eos_ >= 0) t.post.after.push_back(out.eos_);
    }
  }
  return out;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special, bool parse_special) const {
  const Impl& t = *impl_;
  std::vector<int32_t> out;
  if (add_special) out = t.post.before;
  std::string clean = repair_utf8(text);
  size_t begin = out.size();
  auto token = [&](int32_t id) { out.push_back(id); };
  t.cut(clean, false, parse_special, [&](std::string_view raw) {
    std::string n = t.normalize(std::string(raw));
    t.cut(n, true, parse_special, [&](std::string_view s) { t.text(s, out.size() == begin, out); }, token);
  }, token);
  if (add_special) out.insert(out.end(), t.post.after.begin(), t.post.after.end());
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  const Impl& t = *impl_;
  std::vector<std::string> tokens;
  for (int32_t id : ids) {
    auto it = t.added_by_id.find(id);
    if (it != t.added_by_id.end()) {
      if (!(skip_special && it->second->special)) tokens.push_back(it->second->content);
    } else if (const std::string* s = t.bpe->token_of(id)) {
      tokens.push_back(*s);
    }
  }
  std::string out;
  for (const std::string& s : t.decode(std::move(tokens))) out += s;
  return out;
}

int32_t Tokenizer::id_of(std::string_view token) const { return impl_->id_of(token); }

int64_t Tokenizer::size() const {
  int64_t n = impl_->bpe->size();
  for (const auto& a : impl_->added) n += impl_->bpe->id_of(a.content) < 0;
  return n;
}

std::string StreamDecoder::push(int32_t id) {
  ids_.push_back(id);
  std::string all = tokenizer_.decode(ids_, true);
  // U+FFFD at the end may be half a character whose rest is still to come.
  if (all.ends_with("\xEF\xBF\xBD") || all.size() <= printed_) return "";
  std::string more = all.substr(printed_);
  printed_ = all.size();
  return more;
}

std::string StreamDecoder::finish() {
  std::string all = tokenizer_.decode(ids_, true);
  return all.size() > printed_ ? all.substr(printed_) : "";
}

}  // namespace sutor
