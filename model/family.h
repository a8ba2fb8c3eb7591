#pragma once
// The families there are: one constructor each, chosen by config.json's model_type in
// model/model.cpp.

#include "model/model.h"

namespace sutor {

using WeightSource = std::function<Tensor(const std::string&, const Shape&)>;
std::unique_ptr<Model> make_deepseek_v2(const Config& config, WeightSource source);

}  // namespace sutor
