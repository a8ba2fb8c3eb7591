#pragma once
// A client of OpenAI-compatible chat endpoints (POST <base>/chat/completions), over http or https.
// Test: tests/eval_judge.cpp.

#include <functional>
#include <string>
#include <vector>

#include "io/dataset.h"

namespace sutor {

struct ChatEndpoint {
  std::string url;  // with the version, e.g. http://127.0.0.1:8000/v1
  std::string model;
  std::string key;       // empty: none; in no message and no log
  double timeout = 120;  // seconds, per attempt
  int attempts = 5;      // of what may pass: no connection, 429, 5xx
  double pause = 1;      // seconds before the second attempt, doubled each time
  // Told of each failure that is tried again: what it was, the next attempt's number, the pause.
  std::function<void(const std::string& problem, int attempt, double pause)> on_retry = {};
};

// The text of the first choice, at temperature 0. Throws with the status and the beginning of the
// server's answer.
std::string chat_completion(const ChatEndpoint& endpoint, const std::vector<Message>& messages,
                            int64_t max_tokens);

}  // namespace sutor
