// Text from ids one at a time (io/tokenizer.h). Decoding all ids again at every step would be
// quadratic; a window of the last few is enough, once it decodes to whole characters. Test:
// tests/tokenizer.cpp, piece by piece against decode().

#include "io/tokenizer.h"

namespace sutor {

// Text is given out up to a trailing U+FFFD, which may yet become a character.
std::string StreamDecoder::push(int32_t id) {
  if (skip_ && tok_.special(id)) return "";  // decode() drops it first of all
  window_.push_back(id);
  if (window_.size() <= wait_) return "";
  constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
  std::string all = tok_.decode(window_, skip_), out;
  size_t end = all.size();
  while (end >= 3 && all.compare(end - 3, 3, kReplacement) == 0) end -= 3;
  if (end > sent_) {
    out = all.substr(sent_, end - sent_);
    sent_ = end;
  }
  constexpr size_t kLong = 64, kKeep = 8;
  wait_ = 0;
  if (window_.size() < kLong) return out;
  // The last ids can stand for all when they decode to whole characters that end the text: what
  // follows them is decoded as it would be after all.
  std::vector<int32_t> last(window_.end() - kKeep, window_.end());
  std::string tail = tok_.decode(last, skip_);
  if (end == all.size() && !tail.empty() && tail.find(kReplacement) == tail.npos &&
      all.ends_with(tail)) {
    window_ = std::move(last);
    sent_ = tail.size();
  } else {
    wait_ = window_.size() + window_.size() / 8;  // the rest of a long broken text comes in bulk
  }
  return out;
}
std::string StreamDecoder::finish() {
  std::string all = tok_.decode(window_, skip_);
  std::string out = all.size() > sent_ ? all.substr(sent_) : "";
  window_.clear(), sent_ = wait_ = 0;
  return out;
}

}  // namespace sutor
