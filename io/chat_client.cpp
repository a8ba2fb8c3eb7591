// One POST a question over the HTTP library (io/httplib.h): URL taken apart, timeouts, a few tries
// with growing pauses, and an answer that is checked before it is believed. Test:
// tests/eval_judge.cpp.

#include "io/chat_client.h"

#include <chrono>
#include <thread>

#include "io/httplib.h"

namespace sutor {
namespace {

// scheme://host[:port] and the path behind it.
std::pair<std::string, std::string> split_url(const std::string& url) {
  size_t host = url.starts_with("http://") ? 7 : url.starts_with("https://") ? 8 : 0;
  check(host > 0 && url.size() > host && url[host] != '/',
        "endpoint {}: must be http://HOST[:PORT]/PATH or https://...", url);
  size_t path = url.find('/', host);
  std::string base = url.substr(0, path), rest = path == std::string::npos ? "" : url.substr(path);
  while (rest.ends_with('/')) rest.pop_back();
  return {base, rest};
}

// The server's words in one line, without the key should it repeat it.
std::string excerpt(std::string text, const std::string& key) {
  for (size_t at; !key.empty() && (at = text.find(key)) != std::string::npos;)
    text.replace(at, key.size(), "(key)");
  for (char& c : text)
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  return text.substr(0, 200);
}

}  // namespace

std::string chat_completion(const ChatEndpoint& e, const std::vector<Message>& messages,
                            int64_t max_tokens) {
  auto [base, path] = split_url(e.url);
  Json body{{"model", e.model},
            {"temperature", 0},
            {"max_tokens", max_tokens},
            {"messages", Json::array()}};
  for (const Message& m : messages)
    body["messages"].push_back({{"role", m.role}, {"content", m.content}});
  std::string text = body.dump(-1, ' ', false, Json::error_handler_t::replace), problem;
  httplib::Client client(base);
  auto seconds = static_cast<time_t>(e.timeout);
  client.set_connection_timeout(seconds);
  client.set_read_timeout(seconds);
  client.set_write_timeout(seconds);
  if (!e.key.empty()) client.set_bearer_token_auth(e.key);
  double pause = e.pause;
  for (int attempt = 1; attempt <= e.attempts; ++attempt, pause *= 2) {
    if (attempt > 1) {
      if (e.on_retry) e.on_retry(problem, attempt, pause / 2);
      std::this_thread::sleep_for(std::chrono::duration<double>(pause / 2));
    }
    auto r = client.Post(path + "/chat/completions", text, "application/json");
    if (!r) {
      problem = httplib::to_string(r.error());
      continue;
    }
    if (r->status == 429 || r->status >= 500) {
      problem = fmt::format("status {}: {}", r->status, excerpt(r->body, e.key));
      continue;
    }
    check(r->status == 200, "endpoint {}: status {}: {}", e.url, r->status,
          excerpt(r->body, e.key));
    std::string where = "answer of " + e.url;
    Json j = parse_json(r->body, where);
    check(j.is_object() && j.contains("choices") && j["choices"].is_array() &&
              !j["choices"].empty() && j["choices"][0].is_object() &&
              j["choices"][0].contains("message"),
          "{}: has no choices[0].message", where);
    return get<std::string>(j["choices"][0]["message"], "content", where);
  }
  fail("endpoint {}: {} ({} attempts)", e.url, problem, e.attempts);
}

}  // namespace sutor
