#pragma once
// A byte-level BPE tokenizer trained on text: what the embedded model reads. Test:
// tests/toy_language.cpp.

#include <string>
#include <vector>

namespace sutor::toy {

struct TokenizerFiles {
  std::string tokenizer_json, tokenizer_config_json;
};

// vocab counts the 256 bytes, the merges, and the two special tokens (bos = vocab-2, eos = vocab-1,
// DeepSeek's names). The same text gives the same files. Throws when the text has too few pairs for
// that many merges.
TokenizerFiles train_tokenizer(const std::vector<std::string>& texts, int vocab = 512);

// The embedded model's tokenizer: trained on the pre-training tasks of that world only.
TokenizerFiles toy_tokenizer(uint64_t world_seed);

}  // namespace sutor::toy
