// kill -9 at every system call of a checkpoint being saved: the writer runs as a traced child, is
// stopped at its k-th entry into or return from the kernel and killed there, for every k until it
// finishes. After each death the newest checkpoint loads and the next save leaves only itself.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>

#include "io/file.h"
#include "model/checkpoint.h"
#include "model/run_state.h"

using namespace sutor;
namespace fs = std::filesystem;

namespace {

// In memory where there is such a file system: thousands of fsyncs.
struct TempDir {
  fs::path path =
      (fs::is_directory("/dev/shm") ? fs::path("/dev/shm") : fs::temp_directory_path()) /
      fmt::format("sutor-kill-{}", getpid());
  TempDir() { fs::remove_all(path), fs::create_directory(path); }
  ~TempDir() { fs::remove_all(path); }
  std::string operator/(const std::string& f) const { return (path / f).string(); }
};

enum class End { kKilled, kFinished, kNotTraced };

// Runs `work` in a child and kills it at its k-th stop (k >= 1).
End killed_at(int k, const std::function<void()>& work) {
  pid_t pid = fork();
  if (pid == 0) {
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(77);
    raise(SIGSTOP);
    work();
    _exit(0);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  if (WIFEXITED(status)) return End::kNotTraced;
  for (int stop = 0;; ++stop) {
    if (stop == k) {
      kill(pid, SIGKILL);
      waitpid(pid, &status, 0);
      return End::kKilled;
    }
    ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr);
    waitpid(pid, &status, 0);
    if (!WIFSTOPPED(status)) {
      CHECK(WIFEXITED(status));
      CHECK(WEXITSTATUS(status) == 0);
      return End::kFinished;
    }
  }
}

// The smallest model with something to train.
std::unique_ptr<Model> tiny() {
  auto model = load_model("tests/goldens/esft_train/model");
  model->params.train("model.layers.1.mlp.experts.7.down_proj.weight");
  model->params.prepare_training(Compute::kF32);
  return model;
}

void fill(Model& m, float x) {
  for (Param* p : m.params.trainable())
    for (Tensor* t : {&p->master, &p->m, &p->v}) std::fill_n(t->f32(), t->numel(), x);
}

size_t count(const fs::path& p) {
  return std::distance(fs::directory_iterator(p), fs::directory_iterator());
}

// Kills `write` at every stop; `check` runs after each death. Returns how many deaths there were.
int each_death(const std::function<void()>& write, const std::function<void()>& check) {
  int k = 1;
  for (;; ++k) {
    End end = killed_at(k, write);
    if (end == End::kNotTraced) {
      MESSAGE("skipped: processes cannot be traced here");
      return 0;
    }
    if (end == End::kFinished) return k - 1;
    CAPTURE(k);
    check();
  }
}

}  // namespace

TEST_CASE("kill: a checkpoint cut off at any system call leaves the previous one, and no rubbish") {
  TempDir d;
  auto model = tiny(), loaded = tiny();
  fill(*model, 2);
  write_state(d / "checkpoint-2", *model, 2, "run");
  std::string previous = read_file(d / "checkpoint-2/state.safetensors");
  bool appeared = false;
  int deaths = each_death(
      [&] {
        fill(*model, 3);
        write_state(d / "checkpoint-3", *model, 3, "run");
      },
      [&] {
        // As a resumed run does.
        sweep_leftovers(d.path.string());
        std::string newest = newest_checkpoint(d.path.string());
        int64_t step = read_state(newest, *loaded, "run");
        bool whole = newest == d / "checkpoint-3";
        CHECK(step == (whole ? 3 : 2));
        CHECK(loaded->params.trainable()[0]->m.f32()[0] == static_cast<float>(step));
        CHECK(read_file(d / "checkpoint-2/state.safetensors") == previous);
        CHECK(count(d.path) == (whole ? 2 : 1));  // nothing else lies about
        CHECK_FALSE((appeared && !whole));        // once there, later deaths do not undo it
        appeared = whole;
        fs::remove_all(d / "checkpoint-3");
        if (whole) appeared = true;
      });
  if (deaths == 0) return;
  CHECK(deaths > 50);
  CHECK(appeared);
}

TEST_CASE("kill: a folder being replaced is the old or the new one at every system call") {
  TempDir d;
  auto save = [&](const std::string& text) {
    AtomicFolder f(d / "out");
    write_file_atomic(f.dir() + "/x", text);
    f.commit();
  };
  save("old");
  int seen_new = 0;
  int deaths = each_death([&] { save("new"); },
                          [&] {
                            std::string is = read_file(d / "out/x");
                            CHECK((is == "old" || is == "new"));
                            seen_new += is == "new";
                            save("old");  // sweeps what the dead writer left
                            CHECK(count(d.path) == 1);
                            CHECK(count(d / "out") == 1);
                          });
  if (deaths > 0) CHECK(seen_new > 0);
}

TEST_CASE("kill: leftovers are swept only when they are ours and their writer is gone") {
  TempDir d;
  pid_t gone = fork();
  if (gone == 0) _exit(0);
  waitpid(gone, nullptr, 0);
  auto make = [&](const std::string& name) { fs::create_directory(d / name); };
  std::string dead = fmt::format("-{}", gone), alive = fmt::format("-{}", getpid());
  make(".sutor-tmp-a" + dead);
  make(".sutor-tmp-b" + dead);
  make(".sutor-tmp-a" + alive);
  make(".tmp-a" + dead);
  make(".sutor-tmp-held" + dead);
  int held = open((d / (".sutor-tmp-held" + dead)).c_str(), O_RDONLY);
  REQUIRE(flock(held, LOCK_EX) == 0);  // a writer whose process we cannot see
  make(".sutor-tmp-a-");
  make(".sutor-tmp-a-1x");
  make("sutor-tmp-a" + dead);
  sweep_leftovers(d.path.string(), "a");
  CHECK(count(d.path) == 7);
  CHECK_FALSE(fs::exists(d / (".sutor-tmp-a" + dead)));
  sweep_leftovers(d.path.string());
  CHECK(count(d.path) == 6);
  close(held);
  sweep_leftovers(d.path.string());
  CHECK(count(d.path) == 5);
  // A replaced folder whose replacement never came gets its name back.
  make(".sutor-old-c" + dead);
  sweep_leftovers(d.path.string());
  CHECK(fs::exists(d / "c"));
  make(".sutor-old-c" + dead);
  sweep_leftovers(d.path.string());
  CHECK_FALSE(fs::exists(d / (".sutor-old-c" + dead)));
  sweep_leftovers(d / "none");  // no folder, nothing to do
}

#ifdef __x86_64__
namespace {

// Runs `work` in a child whose k-th call (k >= 1) that writes, syncs, renames or creates fails with
// `error`. The child ends with 3 when `work` throws an Error. -1: it made fewer such calls; -2: not
// traced here.
int failing_at(int k, int error, const std::function<void()>& work) {
  pid_t pid = fork();
  if (pid == 0) {
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(77);
    raise(SIGSTOP);
    try {
      work();
    } catch (const Error&) {
      _exit(3);
    }
    _exit(0);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  if (WIFEXITED(status)) return -2;
  bool entering = true, injected = false;
  for (int calls = 0;;) {
    ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr);
    waitpid(pid, &status, 0);
    if (!WIFSTOPPED(status)) {
      CHECK(WIFEXITED(status));
      return injected ? WEXITSTATUS(status) : -1;
    }
    user_regs_struct regs{};
    ptrace(PTRACE_GETREGS, pid, nullptr, &regs);
    if (entering) {
      const auto call = static_cast<long>(regs.orig_rax);
      const bool creates = call == SYS_openat && (regs.rdx & O_CREAT) != 0;
      if (creates || call == SYS_write || call == SYS_fsync || call == SYS_rename ||
          call == SYS_renameat || call == SYS_renameat2 || call == SYS_mkdir) {
        if (++calls == k) {
          regs.orig_rax = static_cast<unsigned long long>(-1);  // no call at all
          ptrace(PTRACE_SETREGS, pid, nullptr, &regs);
          injected = true;
          ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr);
          waitpid(pid, &status, 0);
          ptrace(PTRACE_GETREGS, pid, nullptr, &regs);
          regs.rax = static_cast<unsigned long long>(-error);
          ptrace(PTRACE_SETREGS, pid, nullptr, &regs);
          continue;
        }
      }
    }
    entering = !entering;
  }
}

}  // namespace

TEST_CASE(
    "kill: a checkpoint whose k-th write, sync, rename or creation fails is an error, and whole or "
    "absent") {
  for (int error : {ENOSPC, EIO}) {
    TempDir d;
    auto model = tiny(), loaded = tiny();
    fill(*model, 2);
    write_state(d / "checkpoint-2", *model, 2, "run");
    int failed = 0, k = 1;
    for (;; ++k) {
      CAPTURE(error);
      CAPTURE(k);
      const int code = failing_at(k, error, [&] {
        fill(*model, 3);
        write_state(d / "checkpoint-3", *model, 3, "run");
      });
      if (code == -2) {
        MESSAGE("skipped: processes cannot be traced here");
        return;
      }
      if (code == -1) break;
      CHECK((code == 0 || code == 3));
      failed += code == 3;
      std::string newest = newest_checkpoint(d.path.string());
      int64_t step = read_state(newest, *loaded, "run");
      CHECK(step == (fs::exists(d / "checkpoint-3") ? 3 : 2));
      CHECK(loaded->params.trainable()[0]->m.f32()[0] == static_cast<float>(step));
      if (code == 0) CHECK(step == 3);
      sweep_leftovers(d.path.string());
      CHECK(count(d.path) == (step == 3 ? 2 : 1));
      fs::remove_all(d / "checkpoint-3");
    }
    CHECK(k > 10);
    CHECK(failed > 8);
  }
}
#endif
