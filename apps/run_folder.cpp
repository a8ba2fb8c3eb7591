#include "apps/run_folder.h"

#include <filesystem>

#include "io/file.h"

namespace sutor {
namespace fs = std::filesystem;

bool holds_no_result(const std::string& dir) {
  if (!fs::exists(dir)) return true;
  for (const auto& e : fs::directory_iterator(dir)) {
    const std::string name = e.path().filename().string();
    // A temporary may still be there while the rank that wrote it is being ended.
    if (name != "log.jsonl" && name != "run.yaml" && name != "placement.json" &&
        !name.starts_with(".sutor-tmp-"))
      return false;
  }
  return true;
}

NewFolder::NewFolder(const std::string& path) : path_(path) {
  std::error_code ec;
  made_ = fs::create_directories(path, ec);
  check(!ec, "{}: cannot be created: {}", path, ec.message());
}

NewFolder::~NewFolder() {
  std::error_code ec;
  if (made_) fs::remove(path_, ec);  // only when empty
}

Log::Log(const std::string& path, bool append) : path_(path) {
  if (append) drop_torn_line();
  file_.open(path, append ? std::ios::app : std::ios::trunc);
  check(file_.is_open(), "{}: cannot be written", path);
}

void Log::line(const Json& j) {
  file_ << j.dump() << '\n' << std::flush;
  check(file_.good(), "{}: cannot be written: is the disk full?", path_);
}

// A killed run may have left half a line.
void Log::drop_torn_line() {
  if (!fs::exists(path_)) return;
  std::string text = read_file(path_);
  if (size_t whole = text.rfind('\n') + 1; whole != text.size()) fs::resize_file(path_, whole);
}

}  // namespace sutor
