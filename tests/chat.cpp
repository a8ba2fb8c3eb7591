// Chat templates as families publish them, against transformers' own environment
// (tests/goldens/make_chat.py); where a folder keeps them; what trains.
#include "io/chat.h"

#include <doctest/doctest.h>

#include <fstream>

#include "io/jinja.h"
#include "io/utf8.h"
#include "tests/command.h"

using namespace sutor;

TEST_CASE("chat: families' templates render as transformers renders them") {
  jinja::Json g = jinja::Json::parse(std::ifstream("tests/goldens/chat/cases.json"));
  int64_t spans = 0;
  for (const jinja::Json& c : g["results"]) {
    const std::string name = c["template"], conversation = c["conversation"];
    CAPTURE(name);
    CAPTURE(conversation);
    jinja::Json variables = g["special"];
    for (const auto& [k, v] : g["conversations"][conversation].items()) variables[k] = v;
    const std::string text = g["templates"][name];
    if (c.contains("error")) {
      CHECK_THROWS_AS(jinja::render(text, variables), Error);
      continue;
    }
    jinja::Rendered r;
    CHECK_NOTHROW(r = jinja::render_spans(text, variables));
    CHECK(r.text == c["out"].get<std::string>());
    if (!c.contains("spans")) continue;
    jinja::Json found = jinja::Json::array();  // in code points
    for (auto [b, e] : r.generation)
      found.push_back({count_chars(r.text.substr(0, b)), count_chars(r.text.substr(0, e))});
    CHECK(found == c["spans"]);
    spans += static_cast<int64_t>(found.size());
  }
  CHECK(spans > 20);
}

static std::string marked(const std::vector<ChatPart>& parts) {
  std::string all;
  for (const ChatPart& p : parts) all += fmt::format("[{}{}]", p.train ? "+" : "-", p.text);
  return all;
}

TEST_CASE("chat: generation spans are what trains, answer by answer") {
  ChatTemplate chat(
      "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}$"
      "{% endgeneration %}{% else %}U:{{ m.content }}{% endif %}{% endfor %}.",
      Json::object());
  auto parts = chat.parts({{"user", "é", false},
                           {"assistant", "b", true},
                           {"user", "c", false},
                           {"assistant", "d", false}});
  CHECK(marked(parts) == "[-U:éA:][+b$][-U:cA:][-d$][-.]");
  // Any number of spans where every answer trains; where one does not, spans must be the answers.
  ChatTemplate two(
      "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
      "{% endgeneration %}:{% generation %}${% endgeneration %}{% endif %}{% endfor %}",
      Json::object());
  CHECK(marked(two.parts({{"user", "a", false}, {"assistant", "b", true}})) == "[+b][-:][+$]");
  CHECK_THROWS_AS(two.parts({{"user", "a", false}, {"assistant", "b", false}}), Error);
  ChatTemplate inside("{% set x %}{% generation %}a{% endgeneration %}{% endset %}{{ x }}",
                      Json::object());
  CHECK_THROWS_AS(inside.parts({{"assistant", "a", true}}), Error);
}

TEST_CASE("chat: answers are told apart without marks, also where only the last one shows more") {
  const std::vector<Message> turns = {{"user", "q", false},
                                      {"assistant", "A", true},
                                      {"user", "r", false},
                                      {"assistant", "b ", true}};
  ChatTemplate plain(
      "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }};{% endfor %}{% if "
      "add_generation_prompt %}<a>{% endif %}",
      Json::object());
  CHECK(marked(plain.parts(turns)) == "[-<u>q;<a>][+A;][-<u>r;<a>][+b ;]");
  ChatTemplate thinking(
      "{% for m in messages %}<{{ m.role[0] }}>{% if m.role == 'assistant' and loop.last "
      "%}{think}{% endif %}{{ m.content | trim }};{% endfor %}{% if add_generation_prompt "
      "%}<a>{% endif %}",
      Json::object());
  CHECK(marked(thinking.parts(turns)) == "[-<u>q;<a>][+A;][-<u>r;<a>][+{think}b;]");
  ChatTemplate counted("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
                       Json::object());
  CHECK_THROWS_WITH_AS(counted.parts(turns), doctest::Contains("cannot be told apart"), Error);
  CHECK(plain.render_continued({{"user", "q", false}, {"assistant", "so ", false}}) ==
        "<u>q;<a>so ");
  CHECK(thinking.render_continued({{"user", "q", false}, {"assistant", "so ", false}}) ==
        "<u>q;<a>{think}so");
}

TEST_CASE(
    "chat: the side file wins; of named templates default, and tool_use for rows with tools") {
  test::Folder f;
  const std::vector<Message> one = {{"user", "q", false}};
  const Json tools{{"tools", Json::array({Json::object()})}};
  CHECK_FALSE(ChatTemplate::load(f.path).has_value());
  f.file("tokenizer_config.json", R"({"bos_token":{"content":"<s>"},"chat_template":"inline"})");
  CHECK(ChatTemplate::load(f.path)->render(one, true) == "inline");
  f.file("special_tokens_map.json", R"({"bos_token":"<x>","pad_token":"<p>"})");
  f.file("tokenizer_config.json",
         R"({"bos_token":{"content":"<s>"},"chat_template":[
             {"name":"tool_use","template":"{{ tools | length }}"},
             {"name":"default","template":"{{ bos_token ~ pad_token ~ (tools is none) }}"}]})");
  CHECK(ChatTemplate::load(f.path)->render(one, true) == "<s><p>True");
  CHECK(ChatTemplate::load(f.path)->render(one, true, tools) == "1");
  f.file("chat_template.jinja", "side {{ (tools or []) | length }}\n");
  CHECK(ChatTemplate::load(f.path)->render(one, true, tools) == "side 1");
  std::filesystem::create_directories(f / "additional_chat_templates");
  f.file("additional_chat_templates/tool_use.jinja", "tools");
  CHECK(ChatTemplate::load(f.path)->render(one, true, tools) == "tools");
  CHECK(ChatTemplate::load(f.path)->render(one, true) == "side 0");
  std::filesystem::remove(f / "chat_template.jinja");
  f.file("tokenizer_config.json", R"({"chat_template":[{"name":"rag","template":"x"}]})");
  CHECK_THROWS_WITH_AS(ChatTemplate::load(f.path), doctest::Contains("found: rag"), Error);
}

TEST_CASE("chat: rows with tools, tool messages and parts reach the template as they are") {
  test::Folder f;
  const std::string file = f.file(
      "r.jsonl",
      R"({"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},)"
      R"({"role":"assistant","content":null,"tool_calls":[{"id":"1"}],"mask":0},)"
      R"({"role":"tool","content":"r","name":"n"},{"role":"assistant","content":"x"}],)"
      R"("tools":[{"t":1}],"chat_template_kwargs":{"k":2}})");
  const Row r = read_dataset(file, false).rows[0];
  CHECK(r.messages[0].content == "ab");
  ChatTemplate chat("{{ messages | tojson }}{{ tools[0].t }}{{ k }}", Json::object());
  CHECK(
      chat.render(r.messages, false, r.more) ==
      R"([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, )"
      R"({"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}, )"
      R"({"role": "tool", "content": "r", "name": "n"}, {"role": "assistant", "content": "x"}]12)");
  // Beside tool_calls the content may be absent, also where there is no third key.
  const std::string calls =
      f.file("c.jsonl", R"({"messages":[{"role":"assistant","tool_calls":[{"id":"1"}]}]})");
  CHECK(ChatTemplate("{{ messages | tojson }}", Json::object())
            .render(read_dataset(calls, false).rows[0].messages, false) ==
        R"([{"role": "assistant", "tool_calls": [{"id": "1"}]}])");
  const std::string bad =
      f.file("b.jsonl", R"({"messages":[{"role":"user","content":[{"type":"image"}]}]})");
  CHECK_THROWS_WITH_AS(read_dataset(bad, false, RowKind::kPrompt),
                       doctest::Contains("content holds"), Error);
}

TEST_CASE("chat: a template that asks for the date gets the same one every day, or the one given") {
  const std::vector<Message> one = {{"user", "q", false}};
  ChatTemplate chat("{{ strftime_now('%Y-%m-%d %H:%M %Z') }}", Json::object());
  CHECK(chat.render(one, true) == std::string(kTemplateDate) + " 12:00 GMT");
  CHECK(chat.asks_date());
  chat.set_date("2031-02-03");
  CHECK(chat.render(one, true) == "2031-02-03 12:00 GMT");
  CHECK_FALSE(ChatTemplate("x", Json::object()).asks_date());
  for (const char* bad : {"", "today", "2031-02-30", "2031-2-3", "2031-02-03x", "-031-02-03"})
    CHECK_THROWS_WITH_AS(chat.set_date(bad), doctest::Contains("YYYY-MM-DD"), Error);
}

TEST_CASE("chat: --date reaches the template; where it would change nothing it is an error") {
  if (test::binary() == nullptr) return;
  test::Folder f;
  std::filesystem::copy_file("tests/goldens/tokenizer/qwen/tokenizer.json", f / "tokenizer.json");
  f.file("chat_template.jinja", "{{ strftime_now('%Y') }}");
  const std::string rows = f.file("rows.jsonl", R"({"messages":[{"role":"user","content":"a"}]})"
                                                "\n");
  auto ids = [&](const std::string& more) {
    return test::run(f, "tokenize " + f.path + " --chat" + more + " <" + rows);
  };
  const test::Result fixed = ids(""), other = ids(" --date 2031-02-03");
  CHECK(fixed.code == 0);
  CHECK(other.code == 0);
  CHECK(fixed.out != other.out);
  CHECK(ids(" --date 2024-01-01").out == fixed.out);
  test::check_one_line(ids(" --date tomorrow"), 2, {"--date", "YYYY-MM-DD"});
  test::check_one_line(test::run(f, "tokenize " + f.path + " --date 2031-02-03 <" + rows), 2,
                       {"--date"});
  f.file("chat_template.jinja", "x");
  test::check_one_line(ids(" --date 2031-02-03"), 2, {"--date", "asks for no date"});
}
