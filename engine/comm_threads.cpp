// Ranks as threads of one process: for tests, debugging and machines without MPI. A sender posts
// the address of its bytes; the receiver copies them when it waits, and the sender waits until it
// has. Test: tests/comm.cpp.

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "engine/comm.h"

namespace sutor {
namespace {

struct Posted {
  const void* data;
  int64_t bytes;
  const char* what;
  int to;
  uint64_t number;  // of the messages from this sender to this receiver
  bool copying = false, done = false;
};

struct World {
  explicit World(int n) : ranks(n), queue(n * n), sent(n * n), received(n * n) {}
  int ranks;
  std::mutex mutex;
  std::condition_variable news;
  std::vector<std::deque<std::shared_ptr<Posted>>> queue;  // [from * ranks + to]
  std::vector<uint64_t> sent, received;  // messages numbered so far, by their sender and receiver
  std::string failed;                    // why a rank gave up
  int at(int from, int to) const { return from * ranks + to; }
};

class ThreadTransport;

class ThreadTransfer : public Transfer {
 public:
  ThreadTransfer(ThreadTransport& t, std::vector<std::shared_ptr<Posted>> out,
                 std::vector<std::pair<Incoming, uint64_t>> in, const char* what)
      : transport_(t), out_(std::move(out)), in_(std::move(in)), what_(what) {}
  ~ThreadTransfer() override;
  void wait() override;

 private:
  ThreadTransport& transport_;
  std::vector<std::shared_ptr<Posted>> out_;
  std::vector<std::pair<Incoming, uint64_t>> in_;
  const char* what_;
};

class ThreadTransport : public Transport {
 public:
  ThreadTransport(std::shared_ptr<World> w, int rank) : world(std::move(w)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return world->ranks; }

  std::unique_ptr<Transfer> start(const std::vector<Outgoing>& out, const std::vector<Incoming>& in,
                                  const char* what) override {
    std::vector<std::shared_ptr<Posted>> posted;
    std::vector<std::pair<Incoming, uint64_t>> wanted;
    std::lock_guard lock(world->mutex);
    for (const Outgoing& o : out) {
      const int at = world->at(rank_, o.to);
      posted.push_back(
          std::make_shared<Posted>(Posted{o.data, o.bytes, what, o.to, world->sent[at]++}));
      world->queue[at].push_back(posted.back());
    }
    for (const Incoming& i : in)
      wanted.emplace_back(i, world->received[world->at(i.from, rank_)]++);
    world->news.notify_all();
    return std::make_unique<ThreadTransfer>(*this, std::move(posted), std::move(wanted), what);
  }

  int ranks_here() const override { return world->ranks; }

  // Ends every rank, as this one cannot go on.
  void abort(const std::string& why) {
    std::lock_guard lock(world->mutex);
    if (world->failed.empty()) world->failed = fmt::format("rank {}: {}", rank_, why);
    world->news.notify_all();
  }

  using Transport::too_late;
  std::shared_ptr<World> world;

 private:
  int rank_;
};

// Whoever leaves early takes its messages back, once nobody reads them.
ThreadTransfer::~ThreadTransfer() {
  World& w = *transport_.world;
  std::unique_lock lock(w.mutex);
  for (const auto& p : out_) {
    w.news.wait(lock, [&] { return !p->copying; });
    if (!p->done) std::erase(w.queue[w.at(transport_.rank(), p->to)], p);
  }
}

void ThreadTransfer::wait() {
  World& w = *transport_.world;
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::duration<double>(transport_.timeout);
  std::unique_lock lock(w.mutex);
  for (;;) {
    if (!w.failed.empty()) throw PeerError(w.failed);
    bool copied = false;
    for (auto i = in_.begin(); i != in_.end();) {
      auto& queue = w.queue[w.at(i->first.from, transport_.rank())];
      auto p = std::find_if(queue.begin(), queue.end(),
                            [&](const auto& q) { return q->number == i->second; });
      if (p == queue.end()) {
        ++i;
        continue;
      }
      const std::shared_ptr<Posted> message = *p;
      check(message->bytes == i->first.bytes && std::strcmp(message->what, what_) == 0,
            "rank {} waits for {} ({} bytes), rank {} sends {} ({} bytes): out of step",
            transport_.rank(), what_, i->first.bytes, i->first.from, message->what, message->bytes);
      message->copying = true;
      queue.erase(p);
      lock.unlock();
      std::memcpy(i->first.data, message->data, message->bytes);
      lock.lock();
      message->copying = false;
      message->done = true;
      w.news.notify_all();
      i = in_.erase(i);
      copied = true;
    }
    const bool sent = std::all_of(out_.begin(), out_.end(), [](const auto& p) { return p->done; });
    if (in_.empty() && sent) return;
    if (copied) continue;
    if (transport_.patient) {
      w.news.wait(lock);
    } else if (w.news.wait_until(lock, deadline) == std::cv_status::timeout &&
               std::chrono::steady_clock::now() >= deadline) {
      std::vector<int> peers;
      for (const auto& [i, number] : in_) peers.push_back(i.from);
      for (const auto& p : out_)
        if (!p->done && std::find(peers.begin(), peers.end(), p->to) == peers.end())
          peers.push_back(p->to);
      lock.unlock();
      transport_.too_late(what_, peers);
    }
  }
}

}  // namespace

void run_ranks_as_threads(int ranks, double timeout, const std::function<void(const Comm&)>& body) {
  check(ranks >= 1, "{} ranks", ranks);
  auto world = std::make_shared<World>(ranks);
  std::vector<std::exception_ptr> own(ranks), peers(ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      auto transport = std::make_shared<ThreadTransport>(world, r);
      transport->timeout = timeout;
      const Comm comm(transport);
      try {
        body(comm);
      } catch (const PeerError& e) {
        peers[r] = std::current_exception();
        transport->abort(e.what());
      } catch (const std::exception& e) {
        own[r] = std::current_exception();
        transport->abort(e.what());
      }
    });
  for (std::thread& t : threads) t.join();
  for (const auto* errors : {&own, &peers})
    for (const std::exception_ptr& e : *errors)
      if (e) std::rethrow_exception(e);
}

}  // namespace sutor
