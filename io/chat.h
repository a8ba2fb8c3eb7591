#pragma once
// The model's own chat template: chat_template.jinja, or chat_template in tokenizer_config.json (a
// text, or a list of named ones).

#include <optional>

#include "io/dataset.h"

namespace sutor {

struct ChatPart {
  std::string text;
  bool train;
};

class ChatTemplate {
 public:
  // Empty when the folder has none.
  static std::optional<ChatTemplate> load(const std::string& folder);
  ChatTemplate(std::string source, Json variables)
      : source_(std::move(source)), variables_(std::move(variables)) {}

  std::string render(const std::vector<Message>& messages, bool add_generation_prompt) const;
  // The rendered conversation in parts; answers of messages that train are marked: by the
  // template's
  // {% generation %} spans, else by what each answer adds to the prompt before it.
  std::vector<ChatPart> parts(const std::vector<Message>& messages) const;

 private:
  Json variables_of(const std::vector<Message>& messages, bool add_generation_prompt) const;
  std::string source_;
  Json variables_;  // bos_token, eos_token, ...
};

}  // namespace sutor
