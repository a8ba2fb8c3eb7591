#pragma once
// tokenizer.json (huggingface/tokenizers): added tokens, normalizer, pre-tokenizer, BPE, post-processor, decoder. Equal ids to
// that library; its regular expressions run on the same engine (Oniguruma). An unknown component is an error.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sutor {

class Tokenizer {
 public:
  static Tokenizer load(const std::string& folder);

  // Ids of the text. add_special: what the post-processor (or add_bos_token) puts around it. Special tokens written in the text are
  // recognised unless parse_special is false. Invalid UTF-8 becomes U+FFFD, as Python's errors="replace" does.
  std::vector<int32_t> encode(std::string_view text, bool add_special = true, bool parse_special = true) const;
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  int32_t id_of(std::string_view token) const;  // -1: none
  int32_t bos() const { return bos_; }
  int32_t eos() const { return eos_; }
  int64_t size() const;

  struct Impl;

 private:
  std::shared_ptr<const Impl> impl_;
  int32_t bos_ = -1, eos_ = -1;
};

// Text of a growing id sequence; never half a character.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& t) : tokenizer_(t) {}
  std::string push(int32_t id);  // the text that became certain
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
  size_t printed_ = 0;
};

}  // namespace sutor
