#pragma once
// Every sub-command: one file apps/<name>.cpp defines its Command, this list names them,
// commands.cpp makes the table.

#include "apps/args.h"

namespace sutor {

struct Command {
  const char* name;
  const char* summary;
  const char* example;
  void (*declare)(Args&);
  void (*run)(const Args&);
};

extern const Command kReport, kTrace, kSelect, kScore, kTrain, kMerge, kGenerate, kInit, kInspect,
    kEnv, kTokenize, kDemoData, kDemo;
const std::vector<const Command*>& commands();

}  // namespace sutor
