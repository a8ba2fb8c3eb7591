// Patterns and the normalizers of tokenizer.json. Unicode tables: utf8proc; regular
// expressions: Oniguruma with Ruby syntax, the engine of the `tokenizers` library.

#include <utf8proc.h>

#include <cstdlib>

#include "engine/error.h"
#include "io/regex.h"
#include "io/tokenizer_parts.h"

namespace sutor::tok {

Where Where::at(std::string_view k) const {
  return {file, key.empty() ? std::string(k) : key + "." + std::string(k)};
}

const Json& need(const Json& j, const char* key, const Where& w) {
  check(j.is_object(), "{}: {}: an object is expected, found {}", w.file, w.key, j.type_name());
  auto it = j.find(key);
  check(it != j.end(), "{}: {}: the key is missing", w.file, w.at(key).key);
  return *it;
}

std::string str(const Json& j, const char* key, const Where& w) {
  const Json& v = need(j, key, w);
  check(v.is_string(), "{}: {}: a string is expected, found {}", w.file, w.at(key).key,
        v.type_name());
  return v.get<std::string>();
}

std::string type_of(const Json& j, const Where& w) { return str(j, "type", w); }

template <class T>
static T field(const Json& j, const char* key, T def, bool (*ok)(const Json&), const char* what,
               const Where& w) {
  auto it = j.find(key);
  if (it == j.end() || it->is_null()) return def;
  check(ok(*it), "{}: {}: {} is expected, found {}", w.file, w.at(key).key, what, it->type_name());
  return it->get<T>();
}

std::string str_or(const Json& j, const char* key, const std::string& def, const Where& w) {
  return field<std::string>(
      j, key, def, [](const Json& v) { return v.is_string(); }, "a string", w);
}
bool bool_or(const Json& j, const char* key, bool def, const Where& w) {
  return field<bool>(
      j, key, def, [](const Json& v) { return v.is_boolean(); }, "true or false", w);
}
int64_t int_or(const Json& j, const char* key, int64_t def, const Where& w) {
  return field<int64_t>(
      j, key, def, [](const Json& v) { return v.is_number_integer(); }, "an integer", w);
}

static utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

Pattern::Pattern(const Json& j, const Where& w) : where_(w) {
  if (j.is_string()) {
    literal_ = j.get<std::string>();
  } else if (j.is_object() && j.contains("String")) {
    literal_ = str(j, "String", w);  // stays a literal even when it looks like a regular expression
  } else {
    compile(str(j, "Regex", w));
  }
}
Pattern::Pattern(const std::string& regex, const Where& w) : where_(w) { compile(regex); }

void Pattern::compile(const std::string& p) {
  check(p.size() <= 1 << 16, "{}: {}: pattern of {} bytes, at most 65536 allowed", where_.file,
        where_.key, p.size());
  init_oniguruma();
  regex_t* r = nullptr;
  OnigErrorInfo info;
  auto b = reinterpret_cast<const OnigUChar*>(p.data());
  int rc =
      onig_new(&r, b, b + p.size(), ONIG_OPTION_NONE, ONIG_ENCODING_UTF8, ONIG_SYNTAX_RUBY, &info);
  if (rc != ONIG_NORMAL) {
    OnigUChar msg[ONIG_MAX_ERROR_MESSAGE_LEN];
    onig_error_code_to_str(msg, rc, &info);
    fail("{}: {}: bad regular expression: {}", where_.file, where_.key,
         reinterpret_cast<char*>(msg));
  }
  regex_ = std::shared_ptr<regex_t>(r, onig_free);
}

void Pattern::each(std::string_view s, const std::function<void(size_t, size_t)>& fn) const {
  if (!regex_) {
    if (literal_.empty()) return;
    for (size_t i = 0; (i = s.find(literal_, i)) != s.npos; i += literal_.size())
      fn(i, i + literal_.size());
    return;
  }
  std::unique_ptr<OnigRegion, void (*)(OnigRegion*)> region(
      onig_region_new(), [](OnigRegion* x) { onig_region_free(x, 1); });
  std::unique_ptr<OnigMatchParam, void (*)(OnigMatchParam*)> param(onig_new_match_param(),
                                                                   onig_free_match_param);
  onig_initialize_match_param(param.get());
  // A hostile pattern must end in an error, not in a hang. The total grows with the text, so honest
  // patterns pass.
  onig_set_retry_limit_in_match_of_match_param(param.get(), 1000000);
  onig_set_retry_limit_in_search_of_match_param(param.get(), 2000000 + 50 * s.size());
  auto b = reinterpret_cast<const OnigUChar*>(s.data()), e = b + s.size();
  size_t at = 0, last = std::string::npos;
  while (at <= s.size()) {
    int rc = onig_search_with_param(regex_.get(), b, e, b + at, e, region.get(), ONIG_OPTION_NONE,
                                    param.get());
    if (rc == ONIG_MISMATCH) return;
    check(rc >= 0,
          "{}: {}: the regular expression exceeds the retry limit (Oniguruma error {}) on {} bytes "
          "of text",
          where_.file, where_.key, rc, s.size());
    size_t x = region->beg[0], y = region->end[0];
    if (x == y) {  // as Rust's find_iter: no empty match right after a match, then one character on
      at = y;
      bool skip = last == y;
      if (at < s.size())
        next_char(s, at);
      else
        ++at;
      if (skip) continue;
    } else {
      at = y;
    }
    last = y;
    fn(x, y);
  }
}

static Normalizer unicode_form(int options) {
  return [options](std::string s) {
    bool ascii = true;
    for (unsigned char c : s) ascii &= c < 0x80;
    if (ascii) return s;
    utf8proc_uint8_t* p = nullptr;
    auto n = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(s.data()), s.size(), &p,
                          static_cast<utf8proc_option_t>(options | UTF8PROC_STABLE));
    check(n >= 0, "tokenizer: Unicode normalization failed: {}", utf8proc_errmsg(n));
    std::string out(reinterpret_cast<char*>(p), n);
    free(p);
    return out;
  };
}

static std::string map_chars(const std::string& s,
                             const std::function<void(std::string&, char32_t)>& fn) {
  std::string out;
  for (size_t i = 0; i < s.size();) fn(out, next_char(s, i));
  return out;
}

static std::string strip(const std::string& s, bool left, bool right) {
  size_t from = s.size(), to = 0;
  for (size_t i = 0; i < s.size();) {
    size_t j = i;
    if (!is_space(next_char(s, i))) from = std::min(from, j), to = i;
  }
  if (!to) return "";
  if (!left) from = 0;
  return s.substr(from, (right ? to : s.size()) - from);
}

Normalizer make_normalizer(const Json& j, const Where& w) {
  if (j.is_null()) return nullptr;
  std::string t = type_of(j, w);
  if (t == "NFC") return unicode_form(UTF8PROC_COMPOSE);
  if (t == "NFD") return unicode_form(UTF8PROC_DECOMPOSE);
  if (t == "NFKC") return unicode_form(UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
  if (t == "NFKD") return unicode_form(UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
  if (t == "Lowercase")
    return [](std::string s) {
      return map_chars(s, [](std::string& o, char32_t c) {
        if (c == 0x130)
          o += "i\xCC\x87";  // the one character whose lower case has two code points
        else
          append_utf8(o, utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
      });
    };
  if (t == "StripAccents")
    return [](std::string s) {
      return map_chars(s, [](std::string& o, char32_t c) {
        auto k = category(c);
        if (k < UTF8PROC_CATEGORY_MN || k > UTF8PROC_CATEGORY_ME) append_utf8(o, c);
      });
    };
  if (t == "Strip") {
    bool l = bool_or(j, "strip_left", true, w), r = bool_or(j, "strip_right", true, w);
    return [l, r](std::string s) { return strip(s, l, r); };
  }
  if (t == "Prepend") {
    std::string p = str(j, "prepend", w);
    return [p](std::string s) { return s.empty() ? s : p + s; };
  }
  if (t == "Replace") {
    Pattern p(need(j, "pattern", w), w.at("pattern"));
    std::string content = str(j, "content", w);
    return [p, content](std::string s) {
      std::string out;
      size_t at = 0;
      p.each(s, [&](size_t b, size_t e) { out.append(s, at, b - at), out += content, at = e; });
      return out.append(s, at, s.npos);
    };
  }
  if (t == "Sequence") {
    std::vector<Normalizer> list;
    const Json& items = need(j, "normalizers", w);
    for (size_t i = 0; i < items.size(); ++i)
      list.push_back(make_normalizer(items.at(i), w.at(std::to_string(i))));
    return [list](std::string s) {
      for (auto& n : list) s = n(std::move(s));
      return s;
    };
  }
  fail(
      "{}: {}: normalizer type '{}' is unknown; allowed: NFC NFD NFKC NFKD Lowercase Prepend "
      "Replace Sequence Strip "
      "StripAccents",
      w.file, w.key, t);
}

}  // namespace sutor::tok
