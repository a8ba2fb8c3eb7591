// The pre-tokenizers of tokenizer.json: cut a string into the pieces the model may not merge
// across.

#include "engine/error.h"
#include "io/tokenizer_parts.h"

namespace sutor::tok {

enum class Split { kRemoved, kIsolated, kWithPrevious, kWithNext, kContiguous };

static Split behavior(const Json& j, const char* def, const Where& w) {
  std::string b = str_or(j, "behavior", def, w);
  if (b == "Removed") return Split::kRemoved;
  if (b == "Isolated") return Split::kIsolated;
  if (b == "MergedWithPrevious") return Split::kWithPrevious;
  if (b == "MergedWithNext") return Split::kWithNext;
  if (b == "Contiguous") return Split::kContiguous;
  fail(
      "{}: {}.behavior: '{}' is unknown; allowed: Removed Isolated MergedWithPrevious "
      "MergedWithNext Contiguous",
      w.file, w.key, b);
}

struct Span {
  size_t b, e;
  bool match;
};
using Finder = std::function<void(std::string_view, const std::function<void(size_t, size_t)>&)>;

static void split(Pieces& p, const Finder& find, Split how, bool invert) {
  std::vector<Piece> out;
  std::vector<Span> spans, made;
  for (const Piece& piece : p.list) {
    std::string_view s = piece.text;
    spans.clear(), made.clear();
    size_t at = 0;
    find(s, [&](size_t b, size_t e) {
      if (b > at) spans.push_back({at, b, invert});
      spans.push_back({b, e, !invert});
      at = e;
    });
    if (at < s.size()) spans.push_back({at, s.size(), invert});
    bool prev = false;
    if (how == Split::kWithNext) {  // the mirror image of WithPrevious, hence from the right
      for (size_t i = spans.size(); i-- > 0; prev = spans[i].match) {
        if (spans[i].match && !prev && !made.empty())
          made.back().b = spans[i].b;
        else
          made.push_back(spans[i]);
      }
      made = {made.rbegin(), made.rend()};
    } else {
      for (const Span& x : spans) {
        bool join = !made.empty() && ((how == Split::kWithPrevious && x.match && !prev) ||
                                      (how == Split::kContiguous && x.match == prev));
        if (join)
          made.back().e = x.e;
        else if (how != Split::kRemoved || !x.match)
          made.push_back(x);
        prev = x.match;
      }
    }
    for (const Span& x : made)
      if (x.e > x.b) out.push_back({s.substr(x.b, x.e - x.b), piece.first && x.b == 0});
  }
  p.list = std::move(out);
}

static Finder chars(bool (*is)(char32_t)) {
  return [is](std::string_view s, const std::function<void(size_t, size_t)>& fn) {
    for (size_t i = 0; i < s.size();) {
      size_t b = i;
      if (is(next_char(s, i))) fn(b, i);
    }
  };
}

static Finder pattern(Pattern p) {
  return [p](std::string_view s, const std::function<void(size_t, size_t)>& fn) { p.each(s, fn); };
}

static void prepend(Pieces& p, Piece& x, const std::string& with) {
  p.store.push_back(std::make_unique<std::string>(with + std::string(x.text)));
  x.text = *p.store.back();
}

static PreTokenizer metaspace(const Json& j, const Where& w) {
  std::string r = str_or(j, "replacement", "▁", w);
  // Files older than prepend_scheme have add_prefix_space instead.
  std::string scheme =
      str_or(j, "prepend_scheme", bool_or(j, "add_prefix_space", true, w) ? "always" : "never", w);
  check(scheme == "first" || scheme == "always" || scheme == "never",
        "{}: {}.prepend_scheme: '{}' is unknown; allowed: first always never", w.file, w.key,
        scheme);
  bool cut = bool_or(j, "split", true, w);
  Pattern mark{Json(r), w};
  return [=](Pieces& p) {
    for (Piece& x : p.list) {
      std::string s;
      for (char c : x.text) c == ' ' ? s += r : s += c;
      if (!s.starts_with(r) && (scheme == "always" || (scheme == "first" && x.first))) s = r + s;
      p.store.push_back(std::make_unique<std::string>(std::move(s)));
      x.text = *p.store.back();
    }
    if (cut) split(p, pattern(mark), Split::kWithNext, false);
  };
}

PreTokenizer make_pretokenizer(const Json& j, const Where& w, bool* byte_level) {
  if (j.is_null()) return nullptr;
  std::string t = type_of(j, w);
  check(!*byte_level, "{}: {}: '{}' after ByteLevel; ByteLevel must be the last stage", w.file,
        w.key, t);
  if (t == "Sequence") {
    std::vector<PreTokenizer> list;
    const Json& items = need(j, "pretokenizers", w);
    for (size_t i = 0; i < items.size(); ++i)
      list.push_back(make_pretokenizer(items.at(i), w.at(std::to_string(i)), byte_level));
    return [list](Pieces& p) {
      for (auto& f : list) f(p);
    };
  }
  if (t == "Split") {
    Pattern p(need(j, "pattern", w), w.at("pattern"));
    return [f = pattern(p), how = behavior(j, "", w),
            inv = bool_or(j, "invert", false, w)](Pieces& x) { split(x, f, how, inv); };
  }
  if (t == "Digits") {
    Split how = bool_or(j, "individual_digits", false, w) ? Split::kIsolated : Split::kContiguous;
    return [how](Pieces& p) { split(p, chars(is_numeric), how, false); };
  }
  if (t == "Punctuation")
    return [how = behavior(j, "Isolated", w)](Pieces& p) {
      split(p, chars(is_punctuation), how, false);
    };
  if (t == "WhitespaceSplit")
    return [](Pieces& p) { split(p, chars(is_space), Split::kRemoved, false); };
  if (t == "Whitespace") {
    Pattern p(std::string(R"(\w+|[^\w\s]+)"), w);
    return [f = pattern(p)](Pieces& x) { split(x, f, Split::kRemoved, true); };
  }
  if (t == "Metaspace") return metaspace(j, w);
  if (t == "ByteLevel") {
    *byte_level = true;
    bool space = bool_or(j, "add_prefix_space", true, w), cut = bool_or(j, "use_regex", true, w);
    Pattern p(std::string(
                  R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"),
              w);
    return [space, cut, f = pattern(p)](Pieces& x) {
      if (space)
        for (Piece& y : x.list)
          if (!y.text.starts_with(' ')) prepend(x, y, " ");
      if (cut) split(x, f, Split::kIsolated, false);
    };
  }
  fail(
      "{}: {}: pre-tokenizer type '{}' is unknown; allowed: Sequence Split Digits Punctuation "
      "Whitespace "
      "WhitespaceSplit Metaspace ByteLevel",
      w.file, w.key, t);
}

}  // namespace sutor::tok
