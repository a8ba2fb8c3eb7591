#include "model/names.h"

#include <charconv>

namespace sutor {
namespace {

// The first part of `rest` up to a dot, which is taken off.
std::string_view next(std::string_view& rest) {
  size_t dot = rest.find('.');
  std::string_view part = rest.substr(0, dot);
  rest = dot == rest.npos ? std::string_view() : rest.substr(dot + 1);
  return part;
}

// A number in its usual spelling; -1 for anything else.
int number(std::string_view text) {
  int v = -1;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), v);
  bool usual = text == "0" || (!text.empty() && text[0] != '0' && text[0] != '-');
  return ec == std::errc() && end == text.data() + text.size() && usual ? v : -1;
}

}  // namespace

Role role_of(std::string_view name) {
  std::string_view rest = name;
  size_t layers = rest.find("layers.");
  if (layers == rest.npos || (layers > 0 && rest[layers - 1] != '.'))
    return {name.find("norm") != name.npos ? Part::kNorm : Part::kEmbedding};
  rest = rest.substr(layers + 7);
  Role role{Part::kEmbedding, number(next(rest))};
  std::string_view module = next(rest);
  if (module == "self_attn") {
    role.part = Part::kAttention;
  } else if (module == "mlp" || module == "block_sparse_moe") {
    std::string_view part = next(rest);
    if (part == "moe_adapter") {
      role.adapter = true;
      part = next(rest);
    }
    if (part == "experts") {
      role.part = Part::kExpert;
      std::string_view expert = next(rest);
      if (role.adapter && expert.starts_with("expert_")) expert.remove_prefix(7);
      role.expert = number(expert);
    } else if (part == "shared_experts" || part == "shared_expert") {
      role.part = Part::kSharedExpert;
    } else if (part == "gate" || part == "shared_expert_gate" ||
               (role.adapter && part == "router")) {
      role.part = Part::kRouter;
    } else {
      role.part = Part::kMlp;
    }
  } else if (module.find("norm") != module.npos) {
    role.part = Part::kNorm;
  }
  return role;
}

}  // namespace sutor
