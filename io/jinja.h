#pragma once
// A small strict Jinja: what chat templates use, rendered as transformers renders them (trim_blocks, lstrip_blocks, an immutable
// sandbox). What is not known is an error with its template line. Templates come with models and are not trusted: output, steps and
// nesting are capped.

#include "io/json.h"

namespace sutor::jinja {

std::string render(const std::string& source, const Json& variables);

}  // namespace sutor::jinja
