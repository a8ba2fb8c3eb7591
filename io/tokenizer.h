#pragma once
// Text <-> token ids for a hub folder: tokenizer.json (Hugging Face `tokenizers`) or, without one,
// tokenizer.model (SentencePiece with Hugging Face's semantics, legacy or not); or for a .gguf file,
// from its vocabulary. bos and eos come from tokenizer_config.json.

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
  // `add_special` runs the post-processor (bos); without `parse_special` "<s>" in the text is plain
  // text.
  std::vector<int32_t> encode(std::string_view text, bool add_special = true,
                              bool parse_special = true) const;
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;
  int32_t bos() const;  // -1: none
  int32_t eos() const;
  int32_t vocab_size() const;                         // largest id + 1
  int32_t token_to_id(std::string_view token) const;  // -1: no such token
  const std::string& id_to_token(int32_t id) const;
  bool special(int32_t id) const;

  struct Impl;

 private:
  std::shared_ptr<const Impl> impl_;
};

// Decodes one id at a time and never gives out half a UTF-8 character: all pieces and finish()
// joined equal decode(), except when byte tokens <0xXX> that made whole characters are followed by
// one that spoils the run (decode() then takes the characters back). Linear: only a window of the
// last ids is decoded again.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer t, bool skip_special = false)
      : tok_(std::move(t)), skip_(skip_special) {}
  std::string push(int32_t id);
  std::string finish();

 private:
  Tokenizer tok_;
  bool skip_;
  std::vector<int32_t> window_;  // the ids that later ones may still change, and some before them
  size_t sent_ = 0;              // bytes of the window's text that were given out
  size_t wait_ = 0;              // decode again when the window is longer than this
};

}  // namespace sutor
