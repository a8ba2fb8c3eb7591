// Added tokens of a tokenizer: which flags they carry, and cutting them out of a text before
// anything else sees it. Source: tokenizers' added_vocabulary.rs. Test: tests/tokenizer.cpp.

#include <algorithm>

#include "io/tokenizer_parts.h"

namespace sutor::tok {
namespace {

bool space_at(std::string_view s, size_t i) { return is_space(next_char(s, i)); }
bool word_at(std::string_view s, size_t i) { return is_word(next_char(s, i)); }

}  // namespace

Added AddedTokens::read(const Json& j, int32_t id, const Where& w) {
  return {str(j, "content", w),
          "",
          id,
          bool_or(j, "special", false, w),
          bool_or(j, "normalized", true, w),
          bool_or(j, "single_word", false, w),
          bool_or(j, "lstrip", false, w),
          bool_or(j, "rstrip", false, w)};
}

void AddedTokens::index() {
  for (const Added& a : list)
    if (!a.match.empty())
      by_byte_[a.normalized][static_cast<unsigned char>(a.match[0])].push_back(&a);
  for (auto& t : by_byte_)
    for (auto& l : t)
      std::stable_sort(l.begin(), l.end(),
                       [](auto* x, auto* y) { return x->match.size() > y->match.size(); });
}

void AddedTokens::split(std::string_view s, size_t base, bool normalized, bool parse,
                        std::vector<Section>& out) const {
  size_t done = 0;
  auto& table = by_byte_[normalized];
  for (size_t i = 0; i < s.size();) {
    const Added* hit = nullptr;
    for (const Added* a : table[static_cast<unsigned char>(s[i])])
      if (s.substr(i).starts_with(a->match)) {
        hit = a;
        break;
      }
    if (!hit) {
      ++i;
      continue;
    }
    size_t b = i, e = i + hit->match.size();
    i = e;
    if (hit->special && !parse) continue;
    if (hit->single_word &&
        ((b > 0 && word_at(s, char_before(s, b))) || (e < s.size() && word_at(s, e))))
      continue;
    if (hit->lstrip)
      while (b > done && space_at(s, char_before(s, b))) b = char_before(s, b);
    if (hit->rstrip)
      while (e < s.size() && space_at(s, e)) next_char(s, e);
    b = std::max(b, done);
    if (b > done) out.push_back({s.substr(done, b - done), -1, base + done});
    out.push_back({{}, hit->id, base + b});
    done = e, i = std::max(i, e);
  }
  if (done < s.size()) out.push_back({s.substr(done), -1, base + done});
}

}  // namespace sutor::tok
