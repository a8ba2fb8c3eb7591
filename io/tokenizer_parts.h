#pragma once
// The stages of a tokenizer.json, each made from its JSON; used by io/tokenizer.cpp only.

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/json.h"

namespace sutor::tok {

// --- unicode (tokenizer_unicode.cpp)
std::string repair_utf8(std::string_view s);                   // invalid bytes -> U+FFFD, Python's errors="replace"
uint32_t next_char(std::string_view s, size_t& at);            // s is valid UTF-8
void append_char(std::string& out, uint32_t c);
bool is_numeric(uint32_t c);                                   // Nd, Nl, No
bool is_space(uint32_t c);
bool is_punctuation(uint32_t c);
bool is_word(uint32_t c);
std::string normalize(std::string_view s, const char* form);   // NFC NFD NFKC NFKD
std::string lowercase(std::string_view s);
std::string strip_accents(std::string_view s);
const std::vector<std::string>& byte_alphabet();               // byte -> its character in GPT-2's byte-level alphabet
const std::unordered_map<uint32_t, uint8_t>& byte_of_char();

// --- regular expressions (tokenizer_unicode.cpp): Oniguruma, Ruby syntax, with a retry limit against hostile patterns
class Regex {
 public:
  Regex(const std::string& pattern, const std::string& where);
  bool search(std::string_view s, size_t from, size_t& begin, size_t& end) const;

 private:
  std::shared_ptr<void> handle_;
};

using Normalizer = std::function<std::string(std::string)>;
Normalizer make_normalizer(const Json& j, const std::string& where);

struct Piece {
  std::string text;
  bool first;  // begins the whole input (Metaspace's "first")
};
using PreTokenizer = std::function<std::vector<Piece>(std::vector<Piece>)>;
PreTokenizer make_pre_tokenizer(const Json& j, const std::string& where);

using Decoder = std::function<std::vector<std::string>(std::vector<std::string>)>;
Decoder make_decoder(const Json& j, const std::string& where);

// --- byte-pair encoding (tokenizer_bpe.cpp)
struct BpeCache;
class Bpe {
 public:
  Bpe(const Json& model, const std::string& where);
  void encode(const std::string& piece, std::vector<int32_t>& out) const;
  int32_t id_of(std::string_view token) const;
  const std::string* token_of(int32_t id) const;
  int64_t size() const { return static_cast<int64_t>(vocab_.size()); }

 private:
  struct Merge {
    int32_t rank, id;
  };
  void merge(const std::string& piece, std::vector<int32_t>& out) const;
  std::unordered_map<std::string, int32_t> vocab_;
  std::unordered_map<int32_t, std::string> tokens_;
  std::unordered_map<uint64_t, Merge> merges_;
  bool byte_fallback_ = false, ignore_merges_ = false, fuse_unk_ = false;
  int32_t unk_ = -1;
  std::string prefix_, suffix_;
  int32_t byte_ids_[256];
  std::shared_ptr<BpeCache> cache_;
};

}  // namespace sutor::tok
