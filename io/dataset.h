#pragma once
// Training data: the row kinds that people have (cli.md), as messages or as ready ids.

#include <string>
#include <vector>

#include "io/json.h"

namespace sutor {

struct Message {
  std::string role, content;
  bool train = false;  // assistant answers, unless the row masks them
  Json raw = {};       // the whole message (tool_calls, reasoning_content, ...); null: no more keys
};

struct Row {
  std::vector<Message> messages;  // chat rows
  Json more = {};  // their tools, documents and chat_template_kwargs, for the template; null: none
  std::string prompt,
      text;  // {"prompt","completion"}: text is the completion; {"text"}: prompt empty
  std::vector<int32_t> ids, labels;  // pre-tokenised rows
  int64_t line = 0;                  // 1-based, for messages
  // Only in rows read as questions or programs; their prompt is `prompt` or `messages`.
  std::vector<std::string> choices;
  int64_t answer = -1;  // index into choices
  std::string test, entry_point, task_id;
};

enum class RowKind {
  kText,      // what trains: messages, instruction + conversation, prompt + completion, text, ids
  kQuestion,  // prompt | question | messages, with choices and answer (0-based index or letter)
  kProgram,   // HumanEval: prompt, test, entry_point, task_id
  kPrompt,    // what is continued: prompt | messages | text
};

struct DataSet {
  std::vector<Row> rows;
  int64_t skipped = 0;  // rows that fit no kind, with skip_bad
};

// The messages of {"messages":[{"role","content","mask"?}]}: at least one. The content is a text, a
// list of parts of type text, or null beside tool_calls.
std::vector<Message> messages_of(const Json& row, const std::string& where);
// What else such a row says to the template: tools, documents, chat_template_kwargs.
Json template_variables_of(const Json& row, const std::string& where);

// .jsonl: a row a line; .json: a list. A row that fits no kind is an error with its line, or is
// counted when skip_bad.
DataSet read_dataset(const std::string& file, bool skip_bad, RowKind kind = RowKind::kText);

}  // namespace sutor
