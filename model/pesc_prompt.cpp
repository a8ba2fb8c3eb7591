#include "model/pesc_prompt.h"

#include <algorithm>

namespace sutor {
namespace {

// An answer is followed by the next header at once: so the history of a chat has the tokens that
// the model itself wrote, eos included.
constexpr const char* kTemplate =
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ '### System:\n' + m.content + '\n' }}"
    "{% elif m.role == 'user' %}{{ '### Human:\n' + m.content + '\n' }}"
    "{% elif m.role == 'assistant' %}{{ '### Assistant:\n' }}"
    "{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('the PESC prompt knows roles system, user and assistant, not ' + "
    "m.role) }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}";

std::string text_of(const Tokenizer& tok, int32_t id) { return id < 0 ? "" : tok.id_to_token(id); }

}  // namespace

ChatTemplate pesc_template(const Tokenizer& tok) {
  return ChatTemplate(kTemplate, Json{{"bos_token", text_of(tok, tok.bos())},
                                      {"eos_token", text_of(tok, tok.eos())}});
}

std::vector<Example> encode_pesc_compat(const DataSet& data, const std::string& file,
                                        const Tokenizer& tok, int64_t seq, int64_t& dropped) {
  const std::string bos = text_of(tok, tok.bos()), eos = text_of(tok, tok.eos());
  std::vector<Example> out;
  for (const Row& r : data.rows) {
    std::string source = bos, target = r.text;
    if (!r.messages.empty()) {
      const bool system = r.messages[0].role == "system";
      const size_t n = r.messages.size(), first = system ? 1 : 0;
      if (n != first + 2 || r.messages[n - 2].role != "user" ||
          r.messages[n - 1].role != "assistant") {
        ++dropped;
        continue;
      }
      if (system) source += "### System:\n" + r.messages[0].content + "\n";
      source += "### Human:\n" + r.messages[n - 2].content + "\n### Assistant:\n";
      target = r.messages[n - 1].content;
    } else {
      check(r.ids.empty() && r.prompt.empty(),
            "{}:{}: the PESC authors' code knows conversations and corpus (text) alone", file,
            r.line);
    }
    Example e;
    e.ids = tok.encode(source + target + eos);
    e.labels = e.ids;
    // They count what is no padding, and id 0 is their padding: an <unk> there shortens the mask.
    // The prompt is cut as the row will be, so one behind the cut does not.
    std::vector<int32_t> prompt = tok.encode(source);
    prompt.resize(static_cast<size_t>(std::min(seq, std::ssize(prompt))));
    const auto masked = std::ssize(prompt) - std::count(prompt.begin(), prompt.end(), 0);
    std::fill_n(e.labels.begin(), std::min(masked, std::ssize(e.ids)), -100);
    out.push_back(std::move(e));
  }
  check(!out.empty(), "{}: no conversation of one turn (--format pesc keeps the others)", file);
  return out;
}

}  // namespace sutor
