// sutor chat: a conversation in the terminal. A line is a message, "\" at its end goes on with the
// next line; answers appear as they are drawn; the keys and values of the conversation so far are
// kept, so only what is new is read. Piped lines work too. Test: tests/chat_command.cpp.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <iostream>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/data_args.h"
#include "apps/run_checkpoint.h"
#include "apps/sampling_args.h"
#include "model/pesc_prompt.h"

namespace sutor {
namespace {

constexpr const char* kHelp =
    "/reset: a new conversation; /exit or end of input: leave; a line ending in \\ goes on; Ctrl-C "
    "ends an answer, or leaves\n";

volatile std::sig_atomic_t answering = 0, interrupted = 0;

struct Answering {  // also when the answer fails, the next Ctrl-C is one at the prompt
  Answering() {
    interrupted = 0;
    answering = 1;
  }
  ~Answering() { answering = 0; }
};

void at_interrupt(int sig) {
  if (answering == 0 || interrupted != 0) {
    std::signal(sig, SIG_DFL);
    std::raise(sig);
  }
  interrupted = 1;
}

void declare(Args& a) {
  declare_model(a);
  a.string("system", "the system message that every conversation begins with");
  a.choice("format",
           "prompt: the model's chat template, or the PESC authors' (what a model without a "
           "template gets)",
           "template", {"template", "pesc"});
  declare_date(a);
  declare_sampling(a, 512);
  declare_weights(a);
}

ChatTemplate template_of(const Args& a, const Tokenizer& tok, bool& pesc) {
  pesc = a.str("format") == "pesc";
  std::optional<ChatTemplate> own;
  if (!pesc) {
    own = dated_template(a);
    check(own || !a.given("format"), "{}: has no chat template (--format pesc needs none)",
          a.str("MODEL"));
    pesc = !own;
    if (pesc && !a.on("quiet"))
      note("{}: has no chat template; the prompt is ### Human: ... ### Assistant:\n",
           a.str("MODEL"));
  }
  a.no_effect_unless(!pesc, "date", "the PESC prompt has none");
  return pesc ? pesc_template(tok) : *own;
}

class Conversation {
 public:
  explicit Conversation(const Args& a)
      : a_(a),
        ctx_(a.context()),
        model_(open_model(a)),
        tok_(Tokenizer::load(hub_folder(a.str("MODEL")))),
        chat_(template_of(a, tok_, pesc_)),
        eos_(end_ids(a, *model_, tok_)),
        opt_(sample_options(a)) {
    place_weights(a, *model_, a.num("max-tokens"));
    reset();
  }

  void reset() {
    messages_.clear();
    if (a_.given("system")) messages_.push_back({"system", a_.str("system")});
  }

  // The answer to stdout; ends early when interrupted. A turn that fails is not part of the
  // conversation.
  void answer(const std::string& text) {
    std::vector<Message> messages = messages_;
    messages.push_back({"user", text});
    const std::vector<int32_t> prompt = tok_.encode(chat_.render(messages, true), false);
    const int64_t longest = model_->config.max_positions, read = std::ssize(prompt);
    check(read < longest,
          "{}: max_position_embeddings is {}, the conversation has {} tokens (/reset begins anew)",
          model_->config.where, longest, read);
    std::vector<std::string> stops = a_.all("stop");
    if (pesc_) stops.push_back("### Human:");  // of a model that was not trained to stop
    StreamDecoder decoder(tok_, true);
    StopAt stop(std::move(stops));
    std::string said;
    auto put = [&](const std::string& piece) {
      said += piece;
      if (a_.on("json")) return;
      fmt::print("{}", piece);
      std::fflush(stdout);
    };
    auto draw = [&] {
      const Answering now;
      return generate(
          ctx_, *model_, prompt, std::min(a_.num("max-tokens"), longest - read), eos_, opt_,
          [&](int32_t id) {
            put(stop.push(decoder.push(id)));
            return !stop.found() && interrupted == 0;
          },
          {}, &session_);
    };
    const Generation g = draw();
    put(stop.push(decoder.finish()));
    put(stop.finish());
    messages.push_back({"assistant", said});
    messages_ = std::move(messages);
    ++opt_.seed;
    const char* why = interrupted != 0 ? "interrupt" : g.stopped ? "stop" : "length";
    if (!a_.on("json")) {
      fmt::print("\n");
      if (why == std::string("length") && !a_.on("quiet"))
        note("(cut after {} tokens)\n", g.ids.size());
    } else {
      fmt::print("{}\n", Json{{"role", "assistant"},
                              {"content", said},
                              {"finish_reason", why},
                              {"prompt_tokens", read},
                              {"completion_tokens", g.ids.size()}}
                             .dump(-1, ' ', false, Json::error_handler_t::replace));
    }
    std::fflush(stdout);
  }

 private:
  const Args& a_;
  Ctx ctx_;
  std::unique_ptr<Model> model_;
  Tokenizer tok_;
  bool pesc_ = false;
  ChatTemplate chat_;
  std::vector<int32_t> eos_;
  SampleOptions opt_;
  std::vector<Message> messages_;
  KvSession session_;
};

// A message of one or more lines; false at the end of input.
bool read_message(bool terminal, std::string& text) {
  text.clear();
  for (bool more = true; more;) {
    if (terminal) note("{}", text.empty() ? "> " : ". ");
    std::string line;
    if (!std::getline(std::cin, line)) return !text.empty();
    if (line.ends_with('\r')) line.pop_back();
    more = line.ends_with('\\');
    if (more) line.back() = '\n';
    text += line;
  }
  return true;
}

void run(const Args& a) {
  check_sampling(a);
  const bool terminal = isatty(0) != 0;
  Conversation conversation(a);
  std::signal(SIGINT, at_interrupt);
  if (terminal && !a.on("quiet")) note("{}", kHelp);
  for (std::string text; read_message(terminal, text);) {
    if (text.empty()) continue;
    if (text == "/exit" || text == "/quit") return;
    if (text == "/reset") {
      conversation.reset();
    } else if (text[0] == '/' && text.find_first_of(" \n/", 1) == text.npos) {
      note("{}", kHelp);  // a word that may be meant for one of these; "/a b" and paths are text
    } else {
      try {
        conversation.answer(text);
      } catch (const Error& e) {
        if (!terminal) throw;
        note("{}\n", e.what());
      }
    }
  }
  if (terminal) note("\n");
}

}  // namespace
const Command kChat{"chat", "talk with a model in the terminal",
                    "echo 'What does a cobbler make?' | sutor chat model/ --max-tokens 32", declare,
                    run};
}  // namespace sutor
