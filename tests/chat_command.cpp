// sutor chat over a pipe and a terminal: the answers of `generate` on the same conversation,
// commands, signals, turns that fail; and KvSession, which it keeps.
#include <fcntl.h>
#include <stdlib.h>

#include "apps/sampling_args.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "tests/command.h"

using namespace sutor;
using namespace sutor::test;
namespace fs = std::filesystem;

namespace {

std::vector<Json> lines_of(const std::string& text) {
  std::vector<Json> out;
  for (size_t at = 0, end = 0; (end = text.find('\n', at)) != text.npos; at = end + 1)
    out.push_back(parse_json(text.substr(at, end - at), "line"));
  return out;
}

const std::string kChat = "chat recipes/embedded --threads 1 --dtype f32 --max-tokens 24 ";

}  // namespace

TEST_CASE("chat: each turn answers as generate does with the conversation so far") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string say = f.file("say", "the law\n\nand \\\nmore\n/reset\nthe law\n/exit\nno\n");
  Result r = run(f, kChat + "--system be-brief --json <" + say);
  CAPTURE(r.err);
  REQUIRE(r.code == 0);
  std::vector<Json> said = lines_of(r.out);
  REQUIRE(said.size() == 3);
  CHECK(said[2] == said[0]);
  Json messages = Json::array(
      {{{"role", "system"}, {"content", "be-brief"}}, {{"role", "user"}, {"content", "the law"}}});
  std::string rows = Json{{"messages", messages}}.dump() + "\n";
  messages.push_back({{"role", "assistant"}, {"content", said[0]["content"]}});
  messages.push_back({{"role", "user"}, {"content", "and \nmore"}});
  rows += Json{{"messages", messages}}.dump() + "\n";
  Result g = run(f, "generate recipes/embedded --threads 1 --dtype f32 --max-tokens 24 --prompts " +
                        f.file("rows.jsonl", rows));
  REQUIRE(g.code == 0);
  std::vector<Json> generated = lines_of(g.out);
  REQUIRE(generated.size() == 2);
  for (size_t i : {0, 1}) {
    CHECK(said[i]["content"] == generated[i]["text"]);
    CHECK(said[i]["prompt_tokens"] == generated[i]["prompt_tokens"]);
    CHECK(said[i]["completion_tokens"] == generated[i]["completion_tokens"]);
  }
  Result text = run(f, kChat + "--system be-brief --quiet <" + say);
  CHECK(text.out.starts_with(said[0]["content"].get<std::string>() + "\n"));
  CHECK(text.err.empty());
  CHECK(run(f, kChat).out.empty());  // no input
}

TEST_CASE("chat: a model without a template gets the PESC prompt; wrong use is one line") {
  if (binary() == nullptr) return;
  Folder f;
  fs::copy("tests/goldens/esft_train/model", f / "m");
  Json config = read_json_file(f / "m/tokenizer_config.json");
  config.erase("chat_template");
  f.file("m/tokenizer_config.json", config.dump());
  const std::string say = f.file("say", "hello\n"),
                    plain = "chat " + (f / "m") + " --threads 1 --max-tokens 3 --json ";
  Result r = run(f, plain + "<" + say);
  CHECK(r.code == 0);
  CHECK(r.err.find("### Assistant:") != std::string::npos);
  Result same = run(f, plain + "--format pesc <" + say);
  CHECK(same.out == r.out);
  CHECK(same.err.empty());
  check_one_line(run(f, plain + "--format template <" + say), 1, {"no chat template", "pesc"});
  check_one_line(run(f, plain + "--format pesc --date 2024-01-01 <" + say), 2, {"--date"});
  check_one_line(run(f, plain + "--top-k 3 <" + say), 2, {"--top-k", "greedy"});
  std::string words;
  for (int i = 0; i < 20000; ++i) words += "law ";
  check_one_line(run(f, kChat + "<" + f.file("long", words + "\n")), 1,
                 {"max_position_embeddings", "/reset"});
}

TEST_CASE("chat: the first Ctrl-C ends the answer, the second the program") {
  if (binary() == nullptr) return;
  Folder f;
  // Answers that would not end; a message is sent, and interrupted once or twice.
  const std::string script = f.file("script", fmt::format(R"(
mkfifo {0}/in
"$SUTOR" chat tests/goldens/esft_train/model --threads 1 --quiet --ignore-eos --max-tokens 100000 <{0}/in >{0}/said & pid=$!
exec 3>{0}/in
(sleep 60; kill -9 $pid) >/dev/null 2>&1 & watch=$!
lines() {{ wc -l <{0}/said; }}
grown() {{ s=$(wc -c <{0}/said); n=0; while [ $(wc -c <{0}/said) -le $((s + 50)) ] && [ $n -lt 200 ]; do sleep 0.05; n=$((n+1)); done; }}
echo one >&3; grown; kill -INT $pid
sleep 0.3; kill -0 $pid && echo alive
echo two >&3; grown; kill -INT $pid; n=0
while sleep 0.2 && kill -INT $pid && [ $n -lt 20 ]; do n=$((n+1)); done  # a busy machine merges signals
wait $pid; echo $?; kill $watch)",
                                                          f.path));
  const int status =
      std::system(fmt::format("sh {} >{}/.out 2>{}/.err", script, f.path, f.path).c_str());
  CHECK(status == 0);
  CAPTURE(read_file(f / ".err"));
  CHECK(read_file(f / ".out") == "alive\n130\n");
}

TEST_CASE("chat: a turn that fails is not part of the conversation, nor of Ctrl-C") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string golden = "tests/goldens/esft_train/model";
  fs::copy(golden, f / "m");
  NamedTensors tensors;
  const Checkpoint file = Checkpoint::open(golden);
  for (const std::string& name : file.names()) {
    Tensor t = clone(file.get(name));
    if (name == "model.embed_tokens.weight") t.as<bf16>()[57 * t.cols()].bits = 0x7fc0;  // "Z"
    tensors.emplace_back(name, t);
  }
  save_safetensors(f / "m/model.safetensors", tensors);
  const int terminal = posix_openpt(O_RDWR | O_NOCTTY);
  REQUIRE(terminal >= 0);
  REQUIRE(terminal < 9);  // what sh can name
  REQUIRE(grantpt(terminal) == 0);
  REQUIRE(unlockpt(terminal) == 0);
  const std::string script = f.file("script", fmt::format(R"(
exec 9<>{1}  # stays open
"$SUTOR" chat {0}/m --threads 1 --quiet --json --max-tokens 4 <{1} >{0}/said 2>{0}/notes & pid=$!
(sleep 60; kill -9 $pid) >/dev/null 2>&1 & watch=$!
for word in a Z a Z; do
  s=$(cat {0}/said {0}/notes | wc -l); n=0
  echo $word >&{2}
  while [ $(cat {0}/said {0}/notes | wc -l) -le $s ] && [ $n -lt 200 ]; do sleep 0.05; n=$((n+1)); done
done
kill -INT $pid
wait $pid; echo $?; kill $watch)",
                                                          f.path, ptsname(terminal), terminal));
  const int status =
      std::system(fmt::format("sh {0} >{1}/.out 2>{1}/.err", script, f.path).c_str());
  close(terminal);
  CHECK(status == 0);
  CAPTURE(read_file(f / ".err"));
  CHECK(read_file(f / ".out") == "130\n");  // of the first Ctrl-C, at the prompt
  const std::string notes = read_file(f / "notes");
  CAPTURE(notes);
  CHECK(notes.find("are not finite") != notes.npos);
  std::vector<Json> said = lines_of(read_file(f / "said"));
  REQUIRE(said.size() == 2);
  Result twice = run(f, "chat " + (f / "m") + " --threads 1 --quiet --json --max-tokens 4 <" +
                            f.file("say", "a\na\n"));
  CHECK(lines_of(twice.out) == said);
}

namespace {

// Four turns with a session and without draw the same ids.
void check_session(Ctx& ctx, Model& model, int64_t max_tokens) {
  KvSession session;
  std::vector<int32_t> prompt{5, 6, 7, 8, 9};
  for (int turn = 0; turn < 4; ++turn) {
    CAPTURE(turn);
    Generation alone = generate(ctx, model, prompt, max_tokens, {}, {}),
               kept = generate(ctx, model, prompt, max_tokens, {}, {}, {}, {}, &session);
    CHECK(kept.ids == alone.ids);
    CHECK(session.cache.length == std::ssize(session.ids));
    CHECK(std::ssize(session.ids) == std::ssize(prompt) + max_tokens - 1);
    prompt.insert(prompt.end(), kept.ids.begin(), kept.ids.end() - (turn == 1 ? 5 : 0));
    prompt.push_back(turn + 20);
  }
}

}  // namespace

TEST_CASE("generate: a session reads only what is new, and draws the same tokens") {
  auto model = load_model("tests/goldens/esft_train/model");
  Ctx ctx = cpu_context(Compute::kF32);
  check_session(ctx, *model, 12);
  KvSession session;
  generate(ctx, *model, {5, 6, 7}, 2, {}, {}, {}, {}, &session);
  generate(ctx, *model, {5, 6}, 1, {}, {}, {}, {}, &session);  // shorter than what is kept
  CHECK(session.ids == std::vector<int32_t>{5, 6});
  auto windowed = load_model("tests/goldens/mistral/window");
  check_session(ctx, *windowed, 12);
}

TEST_CASE("generate: a session keeps nothing of a draft that was not drawn") {
  auto model = load_model("tests/goldens/esft_train/model");
  Ctx ctx = cpu_context(Compute::kF32);
  const std::vector<int32_t> prompt{5, 6, 7, 8, 9};
  const std::vector<int32_t> ids = generate(ctx, *model, prompt, 8, {}, {}).ids;
  auto check_next = [&](KvSession& session, std::vector<int32_t> next) {
    CHECK(session.cache.length == std::ssize(session.ids));
    next.push_back(20);
    CHECK(
        generate(ctx, *model, next, 8, {}, {.logprobs = 1}, {}, {}, &session).logprobs[0].chosen ==
        doctest::Approx(generate(ctx, *model, next, 8, {}, {.logprobs = 1}).logprobs[0].chosen)
            .epsilon(1e-6));
  };
  for (size_t right = 1; right < 5; ++right)
    for (size_t last = 1; last < 6; ++last) {  // the caller stops there, or an end id is drawn
      CAPTURE(right);
      CAPTURE(last);
      std::vector<int32_t> draft(ids.begin(), ids.begin() + static_cast<long>(right)),
          next = prompt;
      for (int i = 0; i < 6; ++i) draft.push_back(ids[right] == 30 ? 31 : 30);
      next.insert(next.end(), ids.begin(), ids.begin() + static_cast<long>(last));
      KvSession stopped, ended, full;
      size_t n = 0;
      generate(
          ctx, *model, prompt, 8, {}, {}, [&](int32_t) { return ++n < last; }, draft, &stopped);
      check_next(stopped, next);
      generate(ctx, *model, prompt, 8, {ids[last]}, {}, {}, draft, &ended);
      check_next(ended, next);
      generate(ctx, *model, prompt, static_cast<int64_t>(last), {}, {}, {}, draft, &full);
      check_next(full, next);
    }
}

TEST_CASE("generate: a session keeps nothing that dynamic RoPE would turn otherwise") {
  Folder f;
  Json j = read_json_file("tests/goldens/llama/rope_dynamic/config.json");
  j["max_position_embeddings"] = 24;
  const Config config = read_config(f.file("config.json", j.dump()));
  auto model = make_model(config, random_source(config, 3, DType::F32));
  Ctx ctx = cpu_context(Compute::kF32);
  KvSession session;
  std::vector<int32_t> prompt{5, 6, 7, 8, 9, 10, 11, 12};
  // Within the original length, over it, and (a new conversation) within it again.
  for (size_t length : {8, 16, 32, 40, 12, 20}) {
    CAPTURE(length);
    while (prompt.size() < length) prompt.push_back(static_cast<int32_t>(prompt.size() * 7 % 50));
    prompt.resize(length);
    Generation alone = generate(ctx, *model, prompt, 6, {}, {.logprobs = 1}),
               kept = generate(ctx, *model, prompt, 6, {}, {.logprobs = 1}, {}, {}, &session);
    CHECK(kept.ids == alone.ids);
    for (size_t i = 0; i < kept.ids.size(); ++i)
      CHECK(kept.logprobs[i].chosen == doctest::Approx(alone.logprobs[i].chosen).epsilon(1e-6));
  }
}
