#pragma once
// The stages of a tokenizer.json pipeline, as the `tokenizers` library defines them. Internal to
// io/tokenizer*.cpp.

#include <oniguruma.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "io/utf8.h"

namespace sutor::tok {

using Json = nlohmann::ordered_json;

// Where in which file we are, so that every error names it.
struct Where {
  std::string file, key;
  Where at(std::string_view k) const;
};

// Fields with a type check; the default applies when the key is absent or null.
std::string type_of(const Json& j, const Where& w);
const Json& need(const Json& j, const char* key, const Where& w);
std::string str(const Json& j, const char* key, const Where& w);
std::string str_or(const Json& j, const char* key, const std::string& def, const Where& w);
bool bool_or(const Json& j, const char* key, bool def, const Where& w);
int64_t int_or(const Json& j, const char* key, int64_t def, const Where& w);

// The GPT-2 byte alphabet.
struct ByteAlphabet {
  std::string of[256];
  int byte_of[0x144];  // -1: not in the alphabet
  ByteAlphabet();
};
const ByteAlphabet& byte_alphabet();

// A literal or an Oniguruma pattern ({"String": ..} or {"Regex": ..}).
class Pattern {
 public:
  Pattern(const Json& j, const Where& w);
  Pattern(const std::string& regex, const Where& w);
  // Calls fn(begin, end) for each match from left to right.
  void each(std::string_view s, const std::function<void(size_t, size_t)>& fn) const;

 private:
  void compile(const std::string& regex);
  Where where_;
  std::string literal_;
  std::shared_ptr<regex_t> regex_;
};

using Normalizer = std::function<std::string(std::string)>;
Normalizer make_normalizer(const Json& j, const Where& w);

struct Piece {
  std::string_view text;
  bool first;  // starts at offset 0 of the whole input
};
// Strings a stage made live in `store`, which outlives the pieces and never moves its elements.
struct Pieces {
  std::vector<Piece> list;
  std::vector<std::unique_ptr<std::string>> store;
};
using PreTokenizer = std::function<void(Pieces&)>;
// `byte_level` is set when the last stage maps bytes to the alphabet; the model does that itself,
// per cached piece.
PreTokenizer make_pretokenizer(const Json& j, const Where& w, bool* byte_level);

// Tokens that stand beside the model's vocabulary and are looked for in the text itself.
struct Added {
  std::string content, match;  // what is looked for: normalized when `normalized`
  int32_t id;
  bool special, normalized, single_word, lstrip, rstrip;
};
struct Section {
  std::string_view text;
  int32_t id;  // -1: text
  size_t at;
};
class AddedTokens {
 public:
  static Added read(const Json& j, int32_t id, const Where& w);
  std::vector<Added> list;
  void index();  // once the list is complete
  // Cuts them out of s, leftmost and longest first: those of the text as it is, or as normalized;
  // special ones only if `parse`. `base` is where s begins.
  void split(std::string_view s, size_t base, bool normalized, bool parse,
             std::vector<Section>& out) const;

 private:
  std::vector<const Added*> by_byte_[2][256];  // [normalized][first byte], longest first
};

using Decoder = std::function<void(std::vector<std::string>&)>;
Decoder make_decoder(const Json& j, const Where& w, bool* byte_level);

class Bpe {
 public:
  Bpe(const Json& j, const Where& w, bool byte_level);
  void encode(std::string_view piece, std::vector<int32_t>& out) const;
  std::unordered_map<std::string, int32_t> vocab;

 private:
  void encode_uncached(std::string_view piece, std::vector<int32_t>& out) const;
  void merge(std::vector<int32_t>& ids) const;
  struct Merge {
    int32_t rank, id;
  };
  std::unordered_map<uint64_t, Merge> merges_;
  std::string prefix_, suffix_;
  int32_t unk_ = -1, bytes_[256], alphabet_[256];
  bool byte_fallback_, fuse_unk_, ignore_merges_, byte_level_;
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  };
  mutable std::mutex mutex_;
  mutable std::unordered_map<std::string, std::vector<int32_t>, Hash, std::equal_to<>> cache_;
};

}  // namespace sutor::tok
