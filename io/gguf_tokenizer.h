#pragma once
// The tokenizer and chat template in a GGUF file, as the files of a hub folder would say it.

#include "io/gguf.h"

namespace sutor {

struct GgufTokenizer {
  Json json;          // tokenizer.json; null for a SentencePiece vocabulary
  std::string proto;  // tokenizer.model, for one
  Json config;        // tokenizer_config.json
};
bool has_tokenizer(const GgufFile& file);  // files without a vocabulary exist
GgufTokenizer gguf_tokenizer(const GgufFile& file);

}  // namespace sutor
