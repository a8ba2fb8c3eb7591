#pragma once
// The model's own chat template: chat_template.jinja, or chat_template in tokenizer_config.json (a
// text, or a list of named ones, of which "default" and "tool_use" are known).

#include <ctime>
#include <optional>

#include "io/dataset.h"

namespace sutor {

// The day that templates get when they ask for one (strftime_now), at noon UTC. It is fixed, so
// that the same rows are the same tokens on every day and every machine; transformers prints the
// current day. The date is the one that Llama 3's templates have where there is no clock.
constexpr const char* kTemplateDate = "2024-07-26";

struct ChatPart {
  std::string text;
  bool train;
};

class ChatTemplate {
 public:
  // Empty when the folder has none.
  static std::optional<ChatTemplate> load(const std::string& folder);
  ChatTemplate(std::string source, Json variables, std::string tool_source = "")
      : source_(std::move(source)),
        tool_source_(std::move(tool_source)),
        variables_(std::move(variables)) {
    set_date(kTemplateDate);
  }
  void set_date(const std::string& iso);  // YYYY-MM-DD
  bool asks_date() const;

  // `more` holds a row's tools, documents and other variables (Row::more).
  std::string render(const std::vector<Message>& messages, bool add_generation_prompt,
                     const Json& more = {}) const;
  // Up to the end of the last message, which is the assistant's and is to be gone on with
  // (transformers' continue_final_message).
  std::string render_continued(const std::vector<Message>& messages, const Json& more = {}) const;
  // The rendered conversation in parts; answers of messages that train are marked: by the
  // template's {% generation %} spans, else by what each answer adds to the prompt before it.
  std::vector<ChatPart> parts(const std::vector<Message>& messages, const Json& more = {}) const;

 private:
  const std::string& source(const Json& more) const;
  Json variables_of(const std::vector<Message>& messages, bool add_generation_prompt,
                    const Json& more) const;
  std::vector<ChatPart> prefix_parts(const std::vector<Message>& messages, const std::string& whole,
                                     const Json& more) const;
  std::string source_, tool_source_;  // tool_source_: for rows with tools, when not empty
  Json variables_;                    // bos_token, eos_token, ...
  std::time_t now_ = 0;
};

}  // namespace sutor
