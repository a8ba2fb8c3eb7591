#pragma once
// Every sub-command: one file apps/<name>.cpp defines its Command, commands.def names it.

#include "apps/args.h"

namespace sutor {

struct Command {
  const char* name;
  const char* summary;
  const char* example;
  void (*declare)(Args&);
  void (*run)(const Args&);
};

#define COMMAND(command) extern const Command command;
#include "apps/commands.def"
#undef COMMAND
const std::vector<const Command*>& commands();

}  // namespace sutor
