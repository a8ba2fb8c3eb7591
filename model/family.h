#pragma once
// A family is one file, model/family_<model_type>.cpp, that defines `family_<model_type>`, and one
// line in families.def: how its config.json is read, and its model.

#include "model/model.h"

namespace sutor {

using WeightSource = std::function<Tensor(const std::string&, const Shape&)>;

struct Family {
  void (*read)(const Reader& r, Config& c);  // checks every key, its own too
  std::unique_ptr<Model> (*make)(const Config& c, WeightSource source);
};

#define FAMILY(name) extern const Family family_##name;
#include "model/families.def"
#undef FAMILY

const Family& family(const std::string& model_type);
std::vector<std::string> family_names();

}  // namespace sutor
