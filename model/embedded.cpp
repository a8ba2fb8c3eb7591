// The files come in by the assembler: a compiler would need minutes for 11 MB of array. The
// Makefile names them as this object's prerequisites.
#include "model/embedded.h"

#include <string_view>

#include "io/file.h"

#define EMBED(name, file)                \
  __asm__(                               \
      ".section .rodata\n"               \
      ".balign 16\n"                     \
      "sutor_embedded_" #name            \
      ":\n"                              \
      ".incbin \"recipes/embedded/" file \
      "\"\n"                             \
      "sutor_embedded_" #name            \
      "_end:\n"                          \
      ".byte 0\n"                        \
      ".text\n");                        \
  extern "C" const char sutor_embedded_##name[], sutor_embedded_##name##_end[]

EMBED(config, "config.json");
EMBED(weights, "model.safetensors");
EMBED(tokenizer, "tokenizer.json");
EMBED(tokenizer_config, "tokenizer_config.json");

namespace sutor {

void write_embedded_model(const std::string& dir) {
  struct File {
    const char *name, *begin, *end;
  };
  AtomicFolder folder(dir);
  for (const File& f :
       {File{"config.json", sutor_embedded_config, sutor_embedded_config_end},
        File{"model.safetensors", sutor_embedded_weights, sutor_embedded_weights_end},
        File{"tokenizer.json", sutor_embedded_tokenizer, sutor_embedded_tokenizer_end},
        File{"tokenizer_config.json", sutor_embedded_tokenizer_config,
             sutor_embedded_tokenizer_config_end}})
    write_file_atomic(folder.dir() + "/" + f.name,
                      std::string_view(f.begin, static_cast<size_t>(f.end - f.begin)));
  folder.commit();
}

}  // namespace sutor
