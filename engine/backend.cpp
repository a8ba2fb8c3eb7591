#include "engine/backend.h"

namespace sutor {

const Backend& cpu_backend() {
  static const Backend table{
      "cpu",
#define KERNEL(fn, sig) cpu::fn,
#include "engine/kernels.def"
#undef KERNEL
  };
  return table;
}

Ctx cpu_context(Compute compute) { return {&cpu_backend(), compute}; }

}  // namespace sutor
