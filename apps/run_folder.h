#pragma once
// The folder of a training run and its log.jsonl.

#include <fstream>
#include <string>

#include "io/json.h"

namespace sutor {

// True for a new or empty folder, and for what a run leaves that ended before its first checkpoint.
bool holds_no_result(const std::string& dir);

// The run folder, removed again when nothing could be written into it.
class NewFolder {
 public:
  explicit NewFolder(const std::string& path);
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;
  void keep() { made_ = false; }
  ~NewFolder();

 private:
  std::string path_;
  bool made_ = false;
};

// JSON lines, each on disk when line() returns; `append` goes on with what a stopped run left.
class Log {
 public:
  Log(const std::string& path, bool append);
  void line(const Json& j);

 private:
  void drop_torn_line();

  std::ofstream file_;
  std::string path_;
};

}  // namespace sutor
