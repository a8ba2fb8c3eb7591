// sutor demo-data: the embedded model's tasks as files.
#include <algorithm>
#include <filesystem>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/table.h"
#include "io/file.h"
#include "model/toy_language.h"
#include "model/toy_tokenizer.h"

namespace sutor {
namespace {

void declare(Args& a) {
  a.string("out",
           "folder to make: {train,eval}/TASK.jsonl, eval/general.jsonl, pretrain.jsonl, "
           "tokenizer.json");
  a.integer("rows", "training rows per task", 2000, 1, 1000000);
  a.integer("eval-rows", "evaluation rows per task, at most", 200, 1, 100000);
  a.integer("pretrain-rows", "rows of pretrain.jsonl, all pre-training tasks mixed", 40000, 1,
            10000000);
  a.integer("seed", "of the world and the rows; the embedded model knows world 1", toy::kWorldSeed,
            0, INT64_MAX / 2);
  a.flag("json", "the counts as JSON");
}

std::string lines(const std::vector<toy::Row>& rows) {
  std::string text;
  for (const toy::Row& r : rows) text += r.json().dump() + "\n";
  return text;
}

void run(const Args& a) {
  namespace fs = std::filesystem;
  const std::string& out = a.required("out");
  // The folder replaces what stood there, so only an empty one or an earlier result of this command
  // may.
  check(!fs::exists(out) || (fs::is_directory(out) &&
                             (fs::is_empty(out) || fs::exists(fs::path(out) / "pretrain.jsonl"))),
        "{}: exists and was not made by demo-data; name a new folder", out);
  uint64_t seed = static_cast<uint64_t>(a.num("seed"));
  toy::Language language(seed);
  AtomicFolder folder(out);
  fs::path dir(folder.dir());
  fs::create_directories(dir / "train");
  fs::create_directories(dir / "eval");
  Json report = Json::object();
  uint64_t stream = 0;
  std::string general;  // the same number of evaluation rows of every pre-training task
  const size_t share =
      std::max<size_t>(1, static_cast<size_t>(a.num("eval-rows")) / toy::pretrain_tasks().size());
  for (bool heldout : {false, true})
    for (const std::string& task : heldout ? toy::heldout_tasks() : toy::pretrain_tasks()) {
      // Every file has its own generator: the number of rows of one does not change another.
      toy::Rng train_rng(seed * 1000003 + ++stream), eval_rng(seed * 1000003 + ++stream);
      std::vector<toy::Row> train =
          language.distinct(task, static_cast<int>(a.num("rows")), train_rng, toy::Split::kTrain);
      std::vector<toy::Row> eval = language.distinct(task, static_cast<int>(a.num("eval-rows")),
                                                     eval_rng, toy::Split::kEval);
      if (!heldout) general += lines({eval.begin(), eval.begin() + std::min(share, eval.size())});
      write_file_atomic((dir / "train" / (task + ".jsonl")).string(), lines(train));
      write_file_atomic((dir / "eval" / (task + ".jsonl")).string(), lines(eval));
      report[task] = {{"kind", heldout ? "held out" : "pre-training"},
                      {"train", train.size()},
                      {"eval", eval.size()}};
    }
  write_file_atomic((dir / "eval" / "general.jsonl").string(), general);
  toy::Rng rng(seed * 1000003);
  write_file_atomic((dir / "pretrain.jsonl").string(),
                    lines(language.pretraining(static_cast<int>(a.num("pretrain-rows")), rng)));
  toy::TokenizerFiles t = toy::toy_tokenizer(seed);
  write_file_atomic((dir / "tokenizer.json").string(), t.tokenizer_json);
  write_file_atomic((dir / "tokenizer_config.json").string(), t.tokenizer_config_json);
  folder.commit();
  if (a.on("json")) return print_json(report);
  Table table({"task", "kind", "train", "eval"});
  for (const auto& [task, r] : report.items())
    table.row({task, r["kind"].get<std::string>(), r["train"].dump(), r["eval"].dump()});
  fmt::print("{}", table.text());
}

}  // namespace
const Command kDemoData{"demo-data", "write the embedded model's tasks and tokenizer",
                        "sutor demo-data --out demo-data", declare, run};
}  // namespace sutor
