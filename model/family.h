#pragma once
// A family is one file, model/family_<model_type>.cpp, that defines `family_<model_type>`, and one
// line in families.def: how its config.json is read, and its model.

#include "model/model.h"

namespace sutor {

using WeightSource = std::function<Tensor(const std::string&, const Shape&)>;

struct Family {
  void (*read)(const Reader& r, Config& c);  // checks every key, its own too
  std::unique_ptr<Model> (*make)(const Config& c, WeightSource source);
  // PESC: the family whose models are crafted into this one, and the authors' classes
  // (module.Class) that a config.json names for those who run them; null: not published.
  const char *dense = nullptr, *config_class = nullptr, *model_class = nullptr;
};

#define FAMILY(name) extern const Family family_##name;
#include "model/families.def"
#undef FAMILY

const Family& family(const std::string& model_type);
std::vector<std::string> family_names();
// What a dense family's models are crafted into; empty: there is no rule.
std::string crafted_family(const std::string& dense);
// The family of a config.json: its model_type, or where the file has a PESC model's keys under a
// dense model_type, what that is crafted into.
std::string family_of(const Json& config, const std::string& where);

}  // namespace sutor
