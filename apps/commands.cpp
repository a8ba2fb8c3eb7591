#include "apps/commands.h"

namespace sutor {

const std::vector<const Command*>& commands() {
  static const std::vector<const Command*> all{
#define COMMAND(command) &command,
#include "apps/commands.def"
#undef COMMAND
  };
  return all;
}

}  // namespace sutor
