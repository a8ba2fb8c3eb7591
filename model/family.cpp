#include "model/family.h"

#include "model/adapter_moe.h"

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

std::string crafted_family(const std::string& dense) {
  for (const auto& [name, f] : kFamilies)
    if (f->dense != nullptr && dense == f->dense) return name;
  return "";
}

std::string family_of(const Json& config, const std::string& where) {
  std::string type = Reader{config, where}.choice("model_type", "", family_names());
  std::string crafted = has_adapter_keys(config) ? crafted_family(type) : "";
  return crafted.empty() ? type : crafted;
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const auto& entry : kFamilies) names.emplace_back(entry.first);
  return names;
}

}  // namespace sutor
