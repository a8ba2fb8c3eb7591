// Characters, normal forms and regular expressions for the tokenizer. utf8proc (Unicode 15), Oniguruma.
#include <oniguruma.h>
#include <utf8proc.h>

#include <mutex>

#include "io/tokenizer_parts.h"

namespace sutor::tok {

uint32_t next_char(std::string_view s, size_t& at) {
  utf8proc_int32_t c;
  utf8proc_ssize_t n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(s.data()) + at, static_cast<utf8proc_ssize_t>(s.size() - at), &c);
  if (n <= 0) {
    ++at;
    return 0xfffd;
  }
  at += static_cast<size_t>(n);
  return static_cast<uint32_t>(c);
}

void append_char(std::string& out, uint32_t c) {
  utf8proc_uint8_t b[4];
  out.append(reinterpret_cast<char*>(b), static_cast<size_t>(utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), b)));
}

std::string repair_utf8(std::string_view s) {
  std::string out;
  out.reserve(s.size());
  auto byte = [&](size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0u; };
  for (size_t i = 0; i < s.size();) {
    unsigned b = byte(i);
    // The longest valid prefix of a broken sequence becomes one U+FFFD (Unicode 15, table 3-7).
    unsigned lo = 0x80, hi = 0xbf;
    int need = b < 0x80 ? 0 : b >= 0xc2 && b <= 0xdf ? 1 : b >= 0xe0 && b <= 0xef ? 2 : b >= 0xf0 && b <= 0xf4 ? 3 : -1;
    if (b == 0xe0) lo = 0xa0;
    if (b == 0xed) hi = 0x9f;
    if (b == 0xf0) lo = 0x90;
    if (b == 0xf4) hi = 0x8f;
    size_t j = i + 1;
    int got = 0;
    while (got < need && j < s.size() && byte(j) >= lo && byte(j) <= hi) {
      ++got;
      ++j;
      lo = 0x80;
      hi = 0xbf;
    }
    if (need == got) out.append(s.substr(i, j - i));
    else out += "\xEF\xBF\xBD";
    i = j;
  }
  return out;
}

namespace {

utf8proc_category_t category(uint32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

}  // namespace

bool is_numeric(uint32_t c) {
  auto k = category(c);
  return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}
bool is_space(uint32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
         c == 0x202f || c == 0x205f || c == 0x3000;
}
bool is_punctuation(uint32_t c) {
  if (c < 128) return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
  auto k = category(c);
  return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}
bool is_word(uint32_t c) {
  auto k = category(c);
  return c == '_' || (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_ND) || k == UTF8PROC_CATEGORY_PC;
}

std::string normalize(std::string_view s, const char* form) {
  bool ascii = true;
  for (unsigned char c : s) ascii &= c < 128;
  if (ascii) return std::string(s);
  int options = UTF8PROC_STABLE | (form[2] == 'C' || form[3] == 'C' ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
  if (form[2] == 'K') options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* out = nullptr;
  utf8proc_ssize_t n = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(s.data()), static_cast<utf8proc_ssize_t>(s.size()), &out,
                                    static_cast<utf8proc_option_t>(options));
  check(n >= 0, "text cannot be normalised: {}", utf8proc_errmsg(n));
  std::string r(reinterpret_cast<char*>(out), static_cast<size_t>(n));
  std::free(out);
  return r;
}

std::string lowercase(std::string_view s) {
  std::string out;
  for (size_t i = 0; i < s.size();) {
    uint32_t c = next_char(s, i);
    if (c == 0x130) out += "i\xCC\x87";  // the one character whose lower case is two
    else append_char(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
  return out;
}

std::string strip_accents(std::string_view s) {
  std::string out;
  for (size_t i = 0; i < s.size();) {
    uint32_t c = next_char(s, i);
    if (category(c) != UTF8PROC_CATEGORY_MN) append_char(out, c);
  }
  return out;
}

const std::vector<std::string>& byte_alphabet() {
  static const std::vector<std::string> table = [] {
    std::vector<std::string> t(256);
    uint32_t extra = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
      bool same = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      append_char(t[b], same ? b : extra++);
    }
    return t;
  }();
  return table;
}

const std::unordered_map<uint32_t, uint8_t>& byte_of_char() {
  static const std::unordered_map<uint32_t, uint8_t> table = [] {
    std::unordered_map<uint32_t, uint8_t> t;
    for (int b = 0; b < 256; ++b) {
      size_t at = 0;
      t[next_char(byte_alphabet()[b], at)] = static_cast<uint8_t>(b);
    }
    return t;
  }();
  return table;
}

Regex::Regex(const std::string& pattern, const std::string& where) {
  static std::once_flag once;
  std::call_once(once, [] {
    OnigEncoding use[] = {ONIG_ENCODING_UTF8};
    onig_initialize(use, 1);
    onig_set_retry_limit_in_match(1'000'000);
  });
  OnigRegex r = nullptr;
  OnigErrorInfo info;
  const auto* p = reinterpret_cast<const OnigUChar*>(pattern.data());
  int rc = onig_new(&r, p, p + pattern.size(), ONIG_OPTION_NONE, ONIG_ENCODING_UTF8, ONIG_SYNTAX_RUBY, &info);
  if (rc != ONIG_NORMAL) {
    OnigUChar text[ONIG_MAX_ERROR_MESSAGE_LEN];
    int n = onig_error_code_to_str(text, rc, &info);
    fail("{}: regular expression '{}': {}", where, pattern, std::string(reinterpret_cast<char*>(text), static_cast<size_t>(n)));
  }
  handle_ = std::shared_ptr<void>(r, [](void* h) { onig_free(static_cast<OnigRegex>(h)); });
}

bool Regex::search(std::string_view s, size_t from, size_t& begin, size_t& end) const {
  thread_local std::unique_ptr<OnigRegion, void (*)(OnigRegion*)> region(onig_region_new(), [](OnigRegion* r) { onig_region_free(r, 1); });
  const auto* p = reinterpret_cast<const OnigUChar*>(s.data());
  int rc = onig_search(static_cast<OnigRegex>(handle_.get()), p, p + s.size(), p + from, p + s.size(), region.get(), ONIG_OPTION_NONE);
  if (rc == ONIG_MISMATCH) return false;
  check(rc >= 0, "the tokenizer's regular expression gave up on the text (error {})", rc);
  begin = static_cast<size_t>(region->beg[0]);
  end = static_cast<size_t>(region->end[0]);
  return true;
}

}  // namespace sutor::tok
