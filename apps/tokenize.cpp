// sutor tokenize: lines of text to lines of ids, and back.
#include <iostream>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/data_args.h"
#include "apps/run_checkpoint.h"
#include "io/tokenizer.h"

namespace sutor {
namespace {

void declare(Args& a) {
  a.positional("MODEL", "folder with tokenizer.json");
  a.flag("decode", "lines of JSON ids to lines of JSON text");
  a.flag("chat", "lines are {\"messages\"} rows, rendered by the chat template first");
  declare_date(a);
  a.flag("no-special", "do not add bos or eos");
  a.flag("quiet", "no progress on stderr");
}

void run(const Args& a) {
  a.no_effect_unless(!a.on("decode"), "chat", "--decode reads ids");
  a.no_effect_unless(!a.on("decode") && !a.on("chat"), "no-special", "only plain text gets them");
  Tokenizer tok = Tokenizer::load(hub_folder(a.str("MODEL")));
  a.no_effect_unless(a.on("chat"), "date", "only --chat renders by a template");
  auto chat = a.on("chat") ? dated_template(a) : std::nullopt;
  check(!a.on("chat") || chat, "{}: has no chat template", a.str("MODEL"));
  int64_t n = 0;
  for (std::string line; std::getline(std::cin, line);) {
    std::string where = fmt::format("line {}", ++n);
    if (a.on("decode")) {
      Json j = parse_json(line, where);
      check(j.is_array(), "{}: not a list of ids", where);
      std::vector<int32_t> ids;
      for (const Json& v : j) {
        check(v.is_number_integer() && v.get<int64_t>() >= 0 && v.get<int64_t>() < tok.vocab_size(),
              "{}: id {} of a vocabulary of {}", where, v.dump(), tok.vocab_size());
        ids.push_back(v.get<int32_t>());
      }
      fmt::print("{}\n", Json(tok.decode(ids)).dump());
    } else if (chat) {
      const Json row = parse_json(line, where);
      const std::vector<Message> messages = messages_of(row, where);
      const std::string text = chat->render(messages, messages.back().role != "assistant",
                                            template_variables_of(row, where));
      fmt::print("{}\n", Json(tok.encode(text, false)).dump());
    } else {
      fmt::print("{}\n", Json(tok.encode(line, !a.on("no-special"))).dump());
    }
  }
}

}  // namespace
const Command kTokenize{"tokenize", "text on stdin to ids, and back",
                        "echo hello | sutor tokenize model/", declare, run};
}  // namespace sutor
