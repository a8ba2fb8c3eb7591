#include "io/regex.h"

#include <oniguruma.h>

#include <mutex>

#include "engine/error.h"

namespace sutor {

void init_oniguruma() {
  static std::once_flag once;
  std::call_once(once, [] {
    OnigEncoding e = ONIG_ENCODING_UTF8;
    onig_initialize(&e, 1);
  });
}

Regex::Regex(const std::string& pattern, const std::string& where) : where_(where) {
  init_oniguruma();
  check(pattern.size() <= 1 << 16, "{}: pattern of {} bytes, at most 65536 allowed", where,
        pattern.size());
  std::string whole = "(?:" + pattern + ")\\Z";
  auto b = reinterpret_cast<const OnigUChar*>(whole.data());
  regex_t* r = nullptr;
  OnigErrorInfo info;
  int rc = onig_new(&r, b, b + whole.size(), ONIG_OPTION_CAPTURE_GROUP, ONIG_ENCODING_UTF8,
                    ONIG_SYNTAX_PYTHON, &info);
  if (rc != ONIG_NORMAL) {
    OnigUChar msg[ONIG_MAX_ERROR_MESSAGE_LEN];
    onig_error_code_to_str(msg, rc, &info);
    fail("{}: \"{}\" is a bad regular expression: {}", where, pattern,
         reinterpret_cast<char*>(msg));
  }
  regex_ = std::shared_ptr<void>(r, [](void* p) { onig_free(static_cast<regex_t*>(p)); });
}

std::string Regex::group(std::string_view text, int n) const {
  std::unique_ptr<OnigRegion, void (*)(OnigRegion*)> region(
      onig_region_new(), [](OnigRegion* x) { onig_region_free(x, 1); });
  std::unique_ptr<OnigMatchParam, void (*)(OnigMatchParam*)> param(onig_new_match_param(),
                                                                   onig_free_match_param);
  onig_initialize_match_param(param.get());
  onig_set_retry_limit_in_match_of_match_param(param.get(), 1000000);
  auto b = reinterpret_cast<const OnigUChar*>(text.data()), e = b + text.size();
  int rc = onig_match_with_param(static_cast<regex_t*>(regex_.get()), b, e, b, region.get(),
                                 ONIG_OPTION_NONE, param.get());
  if (rc == ONIG_MISMATCH) return "";
  check(rc >= 0, "{}: the regular expression exceeds the retry limit (Oniguruma error {})", where_,
        rc);
  if (static_cast<size_t>(region->end[0]) != text.size()) return "";
  if (n >= region->num_regs || region->beg[n] < 0) return "";
  return std::string(text.substr(region->beg[n], region->end[n] - region->beg[n]));
}

bool Regex::full_match(std::string_view text) const {
  return !text.empty() && !group(text, 0).empty();
}

}  // namespace sutor
