// The files come in by the assembler: a compiler would need minutes for 16 MB of array. The
// Makefile names them as this object's prerequisites. Both models have the same tokenizer.
#include "model/embedded.h"

#include <string_view>

#include "io/file.h"

#define EMBED(name, file)       \
  __asm__(                      \
      ".section .rodata\n"      \
      ".balign 16\n"            \
      "sutor_embedded_" #name   \
      ":\n"                     \
      ".incbin \"recipes/" file \
      "\"\n"                    \
      "sutor_embedded_" #name   \
      "_end:\n"                 \
      ".byte 0\n"               \
      ".text\n");               \
  extern "C" const char sutor_embedded_##name[], sutor_embedded_##name##_end[]

EMBED(config, "embedded/config.json");
EMBED(weights, "embedded/model.safetensors");
EMBED(tokenizer, "embedded/tokenizer.json");
EMBED(tokenizer_config, "embedded/tokenizer_config.json");
EMBED(dense_config, "embedded-dense/config.json");
EMBED(dense_weights, "embedded-dense/model.safetensors");

namespace sutor {
namespace {

struct File {
  const char *name, *begin, *end;
};
#define FILE_OF(name, variable) \
  File { name, sutor_embedded_##variable, sutor_embedded_##variable##_end }

void write_files(const std::string& dir, const File& config, const File& weights) {
  AtomicFolder folder(dir);
  for (const File& f : {config, weights, FILE_OF("tokenizer.json", tokenizer),
                        FILE_OF("tokenizer_config.json", tokenizer_config)})
    write_file_atomic(folder.dir() + "/" + f.name,
                      std::string_view(f.begin, static_cast<size_t>(f.end - f.begin)));
  folder.commit();
}

}  // namespace

void write_embedded_model(const std::string& dir) {
  write_files(dir, FILE_OF("config.json", config), FILE_OF("model.safetensors", weights));
}

void write_embedded_dense_model(const std::string& dir) {
  write_files(dir, FILE_OF("config.json", dense_config),
              FILE_OF("model.safetensors", dense_weights));
}

}  // namespace sutor
