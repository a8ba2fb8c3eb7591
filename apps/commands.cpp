#include "apps/commands.h"

namespace sutor {

const std::vector<const Command*>& commands() {
  static const std::vector<const Command*> all{&kScore, &kSelect,   &kTrain,   &kMerge,  &kGenerate,
                                               &kTrace, &kTokenize, &kInspect, &kReport, &kInit,
                                               &kEnv,   &kDemoData, &kDemo};
  return all;
}

}  // namespace sutor
