// The decoders of tokenizer.json: a chain over the list of tokens, joined at the end.

#include "engine/error.h"
#include "io/tokenizer_parts.h"

namespace sutor::tok {

static void byte_level_decode(std::vector<std::string>& t) {
  std::string all;
  for (const std::string& s : t) {
    std::string bytes;
    bool ok = true;
    for (size_t i = 0; ok && i < s.size();) {
      char32_t c = next_char(s, i);
      ok = c < 0x144 && byte_alphabet().byte_of[c] >= 0;
      if (ok) bytes += static_cast<char>(byte_alphabet().byte_of[c]);
    }
    all += ok ? bytes : s;  // an added token with other characters stands for itself
  }
  t = {replace_invalid(all)};
}

static int byte_token(const std::string& s) {
  auto hex = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  if (s.size() != 6 || !s.starts_with("<0x") || s[5] != '>' || hex(s[3]) < 0 || hex(s[4]) < 0)
    return -1;
  return hex(s[3]) * 16 + hex(s[4]);
}

static void byte_fallback_decode(std::vector<std::string>& t) {
  std::vector<std::string> out;
  std::string run;
  auto flush = [&] {
    if (run.empty()) return;
    if (replace_invalid(run) == run)
      out.push_back(run);
    else
      for (size_t i = 0; i < run.size(); ++i) out.push_back("\xEF\xBF\xBD");
    run.clear();
  };
  for (std::string& s : t) {
    int b = byte_token(s);
    if (b >= 0)
      run += static_cast<char>(b);
    else
      flush(), out.push_back(s);
  }
  flush();
  t = std::move(out);
}

Decoder make_decoder(const Json& j, const Where& w, bool* byte_level) {
  if (j.is_null())
    return [](std::vector<std::string>& t) {
      for (size_t i = 1; i < t.size(); ++i) t[i].insert(t[i].begin(), ' ');
    };
  std::string type = type_of(j, w);
  if (type == "ByteLevel") {
    *byte_level = true;
    return byte_level_decode;
  }
  if (type == "ByteFallback") return byte_fallback_decode;
  if (type == "Fuse")
    return [](std::vector<std::string>& t) {
      std::string all;
      for (auto& s : t) all += s;
      t = {all};
    };
  if (type == "Replace") {
    Pattern p(need(j, "pattern", w), w.at("pattern"));
    std::string content = str(j, "content", w);
    return [p, content](std::vector<std::string>& t) {
      for (auto& s : t) {
        std::string out;
        size_t at = 0;
        p.each(s, [&](size_t b, size_t e) { out.append(s, at, b - at), out += content, at = e; });
        s = out.append(s, at, s.npos);
      }
    };
  }
  if (type == "Strip") {
    std::string c = str(j, "content", w);
    check(!c.empty(), "{}: {}.content: one character is expected, found none", w.file, w.key);
    int64_t start = int_or(j, "start", 0, w), stop = int_or(j, "stop", 0, w);
    return [=](std::vector<std::string>& t) {
      for (auto& s : t) {
        for (int64_t i = 0; i < start && s.starts_with(c); ++i) s.erase(0, c.size());
        for (int64_t i = 0; i < stop && s.ends_with(c); ++i) s.resize(s.size() - c.size());
      }
    };
  }
  if (type == "Metaspace") {
    std::string r = str_or(j, "replacement", "▁", w);
    bool never = str_or(j, "prepend_scheme",
                        bool_or(j, "add_prefix_space", true, w) ? "always" : "never", w) == "never";
    return [=](std::vector<std::string>& t) {
      for (size_t i = 0; i < t.size(); ++i)
        for (size_t at = 0; (at = t[i].find(r, at)) != std::string::npos;) {
          t[i].erase(at, r.size());
          if (i > 0 || never) t[i].insert(t[i].begin() + static_cast<ptrdiff_t>(at++), ' ');
        }
    };
  }
  if (type == "Sequence") {
    std::vector<Decoder> list;
    bool inner = false;
    const Json& items = need(j, "decoders", w);
    for (size_t i = 0; i < items.size(); ++i)
      list.push_back(make_decoder(items.at(i), w.at(std::to_string(i)), &inner));
    return [list](std::vector<std::string>& t) {
      for (auto& d : list) d(t);
    };
  }
  fail(
      "{}: {}: decoder type '{}' is unknown; allowed: ByteLevel ByteFallback Fuse Replace Strip "
      "Metaspace Sequence",
      w.file, w.key, type);
}

}  // namespace sutor::tok
