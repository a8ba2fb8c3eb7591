#pragma once
// What a run was made of, for its log and for --resume: the effective configuration and hashes of
// the data, the model (weights sampled, config, tokenizer), the adapters and this binary.

#include "apps/args.h"
#include "io/json.h"

namespace sutor {

struct RunRecord {
  Json config;  // option -> value; numbers and booleans typed
  std::string data_hash, model_hash, binary_hash;
  // "key=value" lines of whatever a resumed run must share with the one that it goes on with:
  // everything but where, how fast, how long (unless the schedule depends on it) and what is shown.
  std::string identity;
};
RunRecord record_of(const Args& a);

// XXH3 over the names, sizes and bytes of a hub or adapter folder's weights (the files that loading
// opens, of any format), configs and tokenizer files, or of a .gguf file and its parts; of a file
// above 64 MiB the first MiB and 256 blocks spread over the rest.
std::string hash_weights(const std::string& path);

}  // namespace sutor
