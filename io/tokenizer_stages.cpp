// Normalizers, pre-tokenizers and decoders of tokenizer.json; source: huggingface/tokenizers, src/{normalizers,pre_tokenizers,decoders}.
#include "io/tokenizer_parts.h"

namespace sutor::tok {
namespace {

constexpr const char* kByteLevelPattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

struct Span {
  size_t begin, end;
  bool match;
};
using Finder = std::function<std::vector<Span>(std::string_view)>;  // covers the text, in order

Finder regex_finder(const std::string& pattern, const std::string& where) {
  return [r = Regex(pattern, where)](std::string_view s) {
    std::vector<Span> out;
    size_t at = 0, from = 0, b = 0, e = 0;
    while (from <= s.size() && r.search(s, from, b, e)) {
      if (e == b) {  // an empty match splits nothing; go on behind the next character
        if (b >= s.size()) break;
        from = b;
        next_char(s, from);
        continue;
      }
      if (b > at) out.push_back({at, b, false});
      out.push_back({b, e, true});
      at = from = e;
    }
    if (at < s.size()) out.push_back({at, s.size(), false});
    return out;
  };
}

Finder literal_finder(const std::string& text) {
  return [text](std::string_view s) {
    std::vector<Span> out;
    size_t at = 0;
    for (size_t b; !text.empty() && (b = s.find(text, at)) != s.npos; at = b + text.size()) {
      if (b > at) out.push_back({at, b, false});
      out.push_back({b, b + text.size(), true});
    }
    if (at < s.size()) out.push_back({at, s.size(), false});
    return out;
  };
}

Finder char_finder(bool (*test)(uint32_t), bool one_by_one) {
  return [test, one_by_one](std::string_view s) {
    std::vector<Span> out;
    for (size_t i = 0; i < s.size();) {
      size_t b = i;
      bool m = test(next_char(s, i));
      if (!out.empty() && out.back().match == m && !(m && one_by_one)) out.back().end = i;
      else out.push_back({b, i, m});
    }
    return out;
  };
}

Finder pattern_finder(const Json& j, const std::string& where) {
  check(j.contains("pattern") && j["pattern"].is_object() && j["pattern"].size() == 1, "{}: pattern must be {{\"String\"|\"Regex\": text}}", where);
  const Json& p = j["pattern"];
  if (p.contains("Regex")) return regex_finder(get<std::string>(p, "Regex", where), where);
  check(p.contains("String"), "{}: pattern must be {{\"String\"|\"Regex\": text}}", where);
  return literal_finder(get<std::string>(p, "String", where));
}

// Cuts a text as `behavior` says.
std::vector<std::string> split(std::string_view s, const Finder& find, const std::string& behavior, bool invert) {
  std::vector<std::pair<std::string, bool>> parts;
  bool last_match = false, carry = false;
  for (Span sp : find(s)) {
    bool m = sp.match != invert;
    std::string text(s.substr(sp.begin, sp.end - sp.begin));
    if (behavior == "Removed") {
      if (!m) parts.emplace_back(text, m);
    } else if (behavior == "MergedWithPrevious" && m && !last_match && !parts.empty()) {
      parts.back().first += text;
    } else if (behavior == "MergedWithNext" && carry) {
      // A separator joins the text behind it; of several in a row only the last does.
      if (m) parts.emplace_back(text, m);
      else parts.back().first += text;
    } else if (behavior == "Contiguous" && !parts.empty() && m == last_match) {
      parts.back().first += text;
    } else {
      parts.emplace_back(text, m);
    }
    carry = m;
    last_match = m;
  }
  std::vector<std::string> out;
  for (auto& p : parts) out.push_back(std::move(p.first));
  return out;
}

PreTokenizer splitter(Finder find, std::string behavior, bool invert) {
  return [find = std::move(find), behavior = std::move(behavior), invert](std::vector<Piece> in) {
    std::vector<Piece> out;
    for (Piece& p : in) {
      bool first = p.first;
      for (std::string& t : split(p.text, find, behavior, invert)) {
        out.push_back({std::move(t), first});
        first = false;
      }
    }
    return out;
  };
}

std::string type_of(const Json& j, const std::string& where) {
  check(j.is_object(), "{}: must be an object with a type", where);
  return get<std::string>(j, "type", where);
}

bool flag(const Json& j, const char* key, bool fallback, const std::string& where) {
  return j.contains(key) && !j[key].is_null() ? get<bool>(j, key, where) : fallback;
}

}  // namespace

Normalizer make_normalizer(const Json& j, const std::string& where) {
  if (j.is_null()) return [](std::string s) { return s; };
  std::string type = type_of(j, where);
  for (const char* form : {"NFC", "NFD", "NFKC", "NFKD"})
    if (type == form) return [form](std::string s) { return normalize(s, form); };
  if (type == "Lowercase") return [](std::string s) { return lowercase(s); };
  if (type == "StripAccents") return [](std::string s) { return strip_accents(s); };
  if (type == "Prepend") return [p = get<std::string>(j, "prepend", where)](std::string s) { return s.empty() ? s : p + s; };
  if (type == "Strip") {
    bool left = flag(j, "strip_left", true, where), right = flag(j, "strip_right", true, where);
    return [left, right](std::string s) {
      size_t b = 0, e = 0;
      bool seen = false;
      for (size_t i = 0; i < s.size();) {
        size_t at = i;
        if (is_space(next_char(s, i))) continue;
        if (!seen) b = at;
        seen = true;
        e = i;
      }
      return s.substr(left ? (seen ? b : s.size()) : 0, (right ? (seen ? e : 0) : s.size()) - (left ? (seen ? b : 0) : 0));
    };
  }
  if (type == "Replace") {
    return [find = pattern_finder(j, where), with = get<std::string>(j, "content", where)](std::string s) {
      std::string out;
      for (Span sp : find(s)) out += sp.match ? with : s.substr(sp.begin, sp.end - sp.begin);
      return out;
    };
  }
  check(type == "Sequence", "{}: type {} is not known (NFC NFD NFKC NFKD Lowercase StripAccents Prepend Strip Replace Sequence)", where, type);
  std::vector<Normalizer> all;
  for (const Json& n : get<Json>(j, "normalizers", where)) all.push_back(make_normalizer(n, where));
  return [all](std::string s) {
    for (const auto& n : all) s = n(std::move(s));
    return s;
  };
}

PreTokenizer make_pre_tokenizer(const Json& j, const std::string& where) {
  if (j.is_null()) return [](std::vector<Piece> p) { return p; };
  std::string type = type_of(j, where);
  if (type == "Split") {
    std::string behavior = get<std::string>(j, "behavior", where);
    check(behavior == "Removed" || behavior == "Isolated" || behavior == "MergedWithPrevious" || behavior == "MergedWithNext" || behavior == "Contiguous",
          "{}: behavior {} is not known (Removed Isolated MergedWithPrevious MergedWithNext Contiguous)", where, behavior);
    return splitter(pattern_finder(j, where), behavior, flag(j, "invert", false, where));
  }
  if (type == "Digits") return splitter(char_finder(is_numeric, flag(j, "individual_digits", false, where)), "Isolated", false);
  if (type == "Punctuation") {
    std::string behavior = j.contains("behavior") ? get<std::string>(j, "behavior", where) : "Isolated";
    return splitter(char_finder(is_punctuation, true), behavior, false);
  }
  if (type == "Whitespace") return splitter(regex_finder(R"(\w+|[^\w\s]+)", where), "Removed", true);
  if (type == "WhitespaceSplit") return splitter(char_finder(is_space, true), "Removed", false);
  if (type == "ByteLevel") {
    bool prefix = flag(j, "add_prefix_space", true, where);
    PreTokenizer cut = flag(j, "use_regex", true, where) ? splitter(regex_finder(kByteLevelPattern, where), "Isolated", false) : PreTokenizer();
    return [prefix, cut](std::vector<Piece> in) {
      if (prefix)
        for (Piece& p : in)
          if (!p.text.empty() && p.text[0] != ' ') p.text.insert(0, " ");
      if (cut) in = cut(std::move(in));
      for (Piece& p : in) {
        std::string t;
        t.reserve(p.text.size() * 2);
        for (unsigned char b : p.text) t += byte_alphabet()[b];
        p.text = std::move(t);
      }
      return in;
    };
  }
  if (type == "Metaspace") {
    std::string with = get<std::string>(j, "replacement", where);
    std::string scheme = j.contains("prepend_scheme") ? get<std::string>(j, "prepend_scheme", where)
                                                      : flag(j, "add_prefix_space", true, where) ? "always" : "never";
    check(scheme == "first" || scheme == "always" || scheme == "never", "{}: prepend_scheme {} is not known (first always never)", where, scheme);
    PreTokenizer cut = flag(j, "split", true, where) ? splitter(literal_finder(with), "MergedWithNext", false) : PreTokenizer();
    return [with, scheme, cut](std::vector<Piece> in) {
      for (Piece& p : in) {
        std::string t;
        for (char c : p.text) c == ' ' ? t += with : t += c;
        if ((scheme == "always" || (scheme == "first" && p.first)) && !t.starts_with(with)) t.insert(0, with);
        p.text = std::move(t);
      }
      return cut ? cut(std::move(in)) : in;
    };
  }
  check(type == "Sequence", "{}: type {} is not known (Split Digits Punctuation Whitespace WhitespaceSplit ByteLevel Metaspace Sequence)", where, type);
  std::vector<PreTokenizer> all;
  for (const Json& p : get<Json>(j, "pretokenizers", where)) all.push_back(make_pre_tokenizer(p, where));
  return [all](std::vector<Piece> in) {
    for (const auto& p : all) in = p(std::move(in));
    return in;
  };
}

Decoder make_decoder(const Json& j, const std::string& where) {
  if (j.is_null())  // the library joins with spaces then
    return [](std::vector<std::string> t) {
      for (size_t i = 1; i < t.size(); ++i) t[i].insert(0, " ");
      return t;
    };
  std::string type = type_of(j, where);
  if (type == "ByteLevel")
    return [](std::vector<std::string> t) {
      std::string bytes;
      for (const std::string& s : t) {
        std::string own;
        bool known = true;
        for (size_t i = 0; i < s.size() && known;) {
          auto it = byte_of_char().find(next_char(s, i));
          known = it != byte_of_char().end();
          if (known) own += static_cast<char>(it->second);
        }
        bytes += known ? own : s;  // tokens outside the alphabet (added ones) stand for themselves
      }
      return std::vector<std::string>{repair_utf8(bytes)};
    };
  if (type == "Replace")
    return [find = pattern_finder(j, where), with = get<std::string>(j, "content", where)](std::vector<std::string> t) {
      for (std::string& s : t) {
        std::string out;
        for (Span sp : find(s)) out += sp.match ? with : s.substr(sp.begin, sp.end - sp.begin);
        s = std::move(out);
      }
      return t;
    };
  if (type == "Fuse")
    return [](std::vector<std::string> t) {
      std::string all;
      for (const std::string& s : t) all += s;
      return std::vector<std::string>{all};
    };
  if (type == "ByteFallback")
    return [](std::vector<std::string> t) {
      std::vector<std::string> out;
      std::string run;
      auto flush = [&] {
        if (run.empty()) return;
        if (repair_utf8(run) == run) out.push_back(run);
        else out.insert(out.end(), run.size(), "\xEF\xBF\xBD");
        run.clear();
      };
      for (const std::string& s : t) {
        auto hex = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
        if (s.size() == 6 && s.starts_with("<0x") && s[5] == '>' && hex(s[3]) >= 0 && hex(s[4]) >= 0) {
          run += static_cast<char>(hex(s[3]) * 16 + hex(s[4]));
          continue;
        }
        flush();
        out.push_back(s);
      }
      flush();
      return out;
    };
  if (type == "Strip") {
    std::string content = get<std::string>(j, "content", where);
    int64_t left = get<int64_t>(j, "start", where), right = get<int64_t>(j, "stop", where);
    return [content, left, right](std::vector<std::string> t) {
      for (std::string& s : t) {
        for (int64_t i = 0; i < left && s.starts_with(content); ++i) s.erase(0, content.size());
        for (int64_t i = 0; i < right && s.ends_with(content); ++i) s.erase(s.size() - content.size());
      }
      return t;
    };
  }
  if (type == "Metaspace") {
    std::string with = get<std::string>(j, "replacement", where);
    bool prefix = j.contains("prepend_scheme") ? get<std::string>(j, "prepend_scheme", where) != "never" : flag(j, "add_prefix_space", true, where);
    return [with, prefix](std::vector<std::string> t) {
      for (size_t i = 0; i < t.size(); ++i) {
        std::string out;
        for (size_t at = 0; at < t[i].size();) {
          if (t[i].compare(at, with.size(), with) == 0) {
            if (!(i == 0 && at == 0 && prefix)) out += ' ';
            at += with.size();
          } else {
            out += t[i][at++];
          }
        }
        t[i] = std::move(out);
      }
      return t;
    };
  }
  check(type == "Sequence", "{}: type {} is not known (ByteLevel Replace Fuse ByteFallback Strip Metaspace Sequence)", where, type);
  std::vector<Decoder> all;
  for (const Json& d : get<Json>(j, "decoders", where)) all.push_back(make_decoder(d, where));
  return [all](std::vector<std::string> t) {
    for (const auto& d : all) t = d(std::move(t));
    return t;
  };
}

}  // namespace sutor::tok
