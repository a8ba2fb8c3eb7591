#include "model/family.h"

namespace sutor {
namespace {

const std::pair<const char*, const Family*> kFamilies[] = {
#define FAMILY(name) {#name, &family_##name},
#include "model/families.def"
#undef FAMILY
};

}  // namespace

const Family& family(const std::string& model_type) {
  for (const auto& [name, f] : kFamilies)
    if (model_type == name) return *f;
  fail("model_type is \"{}\", known: {}", model_type, fmt::join(family_names(), ", "));
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const auto& entry : kFamilies) names.emplace_back(entry.first);
  return names;
}

}  // namespace sutor
