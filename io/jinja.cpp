#include "io/jinja.h"
namespace sutor::jinja {
std::string render(const std::string&, const Json&) { fail("chat templates are not built in yet; --format esft needs none"); }
}  // namespace sutor::jinja
