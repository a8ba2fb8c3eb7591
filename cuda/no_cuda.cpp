// Linked in place of the CUDA backend when it is not built.
#include "engine/backend.h"

namespace sutor {
std::string cuda_unusable_because() { return "this binary was built without the CUDA backend"; }
}  // namespace sutor
