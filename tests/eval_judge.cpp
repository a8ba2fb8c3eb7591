// The judge against a server of our own on 127.0.0.1: what is sent, what is made of replies, what
// happens when it fails, and that the key is in no message.
#include <doctest/doctest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "io/chat_client.h"
#include "io/file.h"
#include "io/httplib.h"
#include "model/eval_judge.h"

using namespace sutor;

namespace {

struct Server {
  httplib::Server http;
  std::thread thread;
  std::atomic<int> calls{0};
  std::string body, authorization;
  int port;
  explicit Server(std::function<void(int call, httplib::Response&)> answer) {
    http.Post("/v1/chat/completions",
              [this, answer](const httplib::Request& q, httplib::Response& r) {
                body = q.body;
                authorization = q.get_header_value("Authorization");
                answer(++calls, r);
              });
    port = http.bind_to_any_port("127.0.0.1");
    thread = std::thread([this] { http.listen_after_bind(); });
    while (!http.is_running()) std::this_thread::yield();
  }
  ~Server() {
    http.stop();
    thread.join();
  }
  ChatEndpoint endpoint() const {
    ChatEndpoint e;
    e.url = fmt::format("http://127.0.0.1:{}/v1", port);
    e.model = "m";
    e.key = "sk-secret";
    e.pause = 0.01;
    return e;
  }
};

void say(httplib::Response& r, const std::string& text) {
  Json j{{"choices", Json::array({{{"message", {{"role", "assistant"}, {"content", text}}}}})}};
  r.set_content(j.dump(), "application/json");
}

std::string error_of(const ChatEndpoint& e) {
  try {
    chat_completion(e, {{"user", "x", false}}, 5);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("eval judge: marks") {
  CHECK(judge_mark("accuracy -1, completeness -2, total score: 7 points") == 7);
  CHECK(judge_mark("Score: 3 points at first. **Total score:** 8.5/10") == 8.5);
  CHECK(judge_mark("The score is 10.") == 10);
  CHECK(judge_mark("内容准确性扣1分，总分是：9分") == 9);
  CHECK_FALSE(judge_mark("Total score: 11 points").has_value());
  CHECK_FALSE(judge_mark("seven").has_value());
  CHECK_FALSE(judge_mark("").has_value());
  CHECK_FALSE(judge_mark("score " + std::string(1 << 20, ' ')).has_value());
}

TEST_CASE("eval judge: the endpoint") {
  Server good([](int call, httplib::Response& r) {
    if (call == 1) r.status = 503;
    if (call == 2) r.status = 429;
    if (call == 3) say(r, "total score: 7 points");
  });
  ChatEndpoint told = good.endpoint();
  std::string said;
  told.on_retry = [&](const std::string& problem, int attempt, double) {
    said += fmt::format("{} {};", problem.substr(0, 10), attempt);
  };
  CHECK(chat_completion(told, {{"user", "hello", false}}, 99) == "total score: 7 points");
  CHECK(good.calls == 3);
  CHECK(said == "status 503 2;status 429 3;");
  CHECK(good.authorization == "Bearer sk-secret");
  Json sent = parse_json(good.body, "request");
  CHECK(sent["model"] == "m");
  CHECK(sent["temperature"] == 0);
  CHECK(sent["max_tokens"] == 99);
  CHECK(sent["messages"][0]["role"] == "user");
  CHECK(sent["messages"][0]["content"] == "hello");

  Server bad([](int call, httplib::Response& r) {
    if (call == 1) {
      r.status = 401;
      r.set_content("no such key:\nsk-secret", "text/plain");
    } else if (call == 2) {
      r.set_content("{\"choices\":[]}", "application/json");
    } else if (call == 3) {
      r.set_content("<html>", "text/html");
    } else {
      r.status = 500;
    }
  });
  std::string e = error_of(bad.endpoint());
  CHECK(e.find("status 401: no such key: (key)") != std::string::npos);
  CHECK(bad.calls == 1);  // not tried again
  CHECK(error_of(bad.endpoint()).find("no choices[0].message") != std::string::npos);
  CHECK(error_of(bad.endpoint()).find("answer of") != std::string::npos);
  e = error_of(bad.endpoint());
  CHECK(e.find("status 500") != std::string::npos);
  CHECK(e.find("5 attempts") != std::string::npos);
  ChatEndpoint nobody = bad.endpoint();
  nobody.url = "http://127.0.0.1:1/v1";
  nobody.attempts = 2;
  CHECK(error_of(nobody).find("2 attempts") != std::string::npos);
  for (const char* url : {"", "127.0.0.1", "ftp://x/v1", "http:///v1"}) {
    nobody.url = url;
    CHECK(error_of(nobody).find("must be http://") != std::string::npos);
  }
}

TEST_CASE("eval judge: rows") {
  auto model = load_model("tests/goldens/esft_train/model");
  Tokenizer tok = Tokenizer::load("tests/goldens/esft_train/model");
  Ctx ctx = cpu_context(Compute::kF32);
  std::vector<EvalTask> tasks(2);
  tasks[0] = {1, "question one", " the {prompt} ", tok.encode("question one"), {}};
  tasks[1] = {4, "question two", "b", tok.encode("question two"), {}};
  EvalOptions opt;
  opt.max_tokens = 4;
  std::vector<std::string> asked;
  auto judge = [&](const std::string& prompt) {
    asked.push_back(prompt);
    return asked.size() == 1 ? std::string("total score: 8 points") : std::string("?");
  };
  EvalResult r =
      eval_judge(ctx, *model, tok, tasks, "{prompt}|{reference}|{prediction}", judge, opt);
  CHECK(r.score == 4);
  CHECK(r.rows[0].score == 8);
  CHECK(r.rows[1].note.find("no mark") != std::string::npos);
  CHECK(r.more["unmarked"] == 1);
  CHECK(asked[0] == "question one|the {prompt}|" + stripped(r.rows[0].answer));
  CHECK_THROWS_AS(eval_judge(ctx, *model, tok, tasks, "{prediction}", judge, opt), Error);
  eval_judge(ctx, *model, tok, tasks, "", judge, opt);
  CHECK(asked.back().find("question two") != std::string::npos);
}

TEST_CASE("eval judge: the command, and the key in nothing it writes") {
  const char* binary = std::getenv("SUTOR");
  if (binary == nullptr) return;
  namespace fs = std::filesystem;
  std::string dir = (fs::temp_directory_path() / fmt::format("sutor-judge-{}", getpid())).string();
  fs::create_directories(dir);
  write_file_atomic(dir + "/rows.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}\n");
  write_file_atomic(dir + "/key", "sk-secret\n");
  Server server([](int, httplib::Response& r) { say(r, "total score: 6 points"); });
  auto run = [&](const std::string& more) {
    std::string command = fmt::format(
        "\"{}\" eval tests/goldens/esft_train/model --data {}/rows.jsonl --max-tokens 3 {} --json "
        "--verbose >{}/out 2>{}/err",
        binary, dir, more, dir, dir);
    return WEXITSTATUS(std::system(command.c_str()));
  };
  CHECK(run(fmt::format("--metric judge --judge-url http://127.0.0.1:{}/v1 --judge-model m "
                        "--judge-key-file {}/key --out {}/result.json",
                        server.port, dir, dir)) == 0);
  CHECK(server.authorization == "Bearer sk-secret");
  CHECK(parse_json(read_file(dir + "/out"), "out")["score"] == 6);
  CHECK(read_file(dir + "/out") == read_file(dir + "/result.json"));
  for (const char* f : {"/out", "/err"})
    CHECK(read_file(dir + f).find("sk-secret") == std::string::npos);
  CHECK(run("--metric judge --judge-model m") == 2);
  CHECK(run("--metric exact --judge-model m") == 2);
  CHECK(run("--metric pass@1") == 2);
  CHECK(read_file(dir + "/err").find("--allow-code-execution") != std::string::npos);
  CHECK(run("--metric pass@1 --allow-code-execution") == 1);  // the row is no program
  CHECK(read_file(dir + "/err").find("rows.jsonl:1: test is missing") != std::string::npos);
  fs::remove_all(dir);
}
