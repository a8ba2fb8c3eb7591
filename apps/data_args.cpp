#include "apps/data_args.h"

#include <cstdio>

#include "apps/run_checkpoint.h"

namespace sutor {

void declare_data(Args& a) {
  a.string("data",
           ".jsonl or .json: messages | instruction + conversation | prompt + completion | text | "
           "input_ids + labels");
  a.choice("format", "prompt of messages: the model's chat template, or the ESFT authors' prompt",
           "template", {"template", "esft"});
  a.flag("skip-bad-rows", "count rows that fit no kind instead of stopping");
}

DataSet load_rows(const Args& a, const std::string& file, RowKind kind) {
  DataSet data = read_dataset(file, a.on("skip-bad-rows"), kind);
  if (data.skipped > 0) note("{}: {} bad rows skipped\n", file, data.skipped);
  return data;
}

std::optional<ChatTemplate> chat_template(const Args& a, const DataSet& data) {
  bool chat = false;
  for (const Row& r : data.rows) chat |= !r.messages.empty();
  a.no_effect_unless(chat, "format", "no row has messages");
  if (!chat || a.str("format") == "esft") return std::nullopt;
  auto templ = ChatTemplate::load(hub_folder(a.str("MODEL")));
  check(templ.has_value(),
        "{}: has no chat template (chat_template.jinja, or chat_template in "
        "tokenizer_config.json); --format esft needs none",
        a.str("MODEL"));
  return templ;
}

std::vector<Example> load_examples(const Args& a, const std::string& file, const Tokenizer& tok) {
  DataSet data = load_rows(a, file, RowKind::kText);
  auto chat = chat_template(a, data);
  return encode_rows(data, file, tok, chat ? &*chat : nullptr);
}

Packing packing_of(const Args& a) {
  const std::string& p = a.str("packing");
  return p == "none"          ? Packing::kNone
         : p == "esft-compat" ? Packing::kEsftCompat
                              : Packing::kDocuments;
}

uint64_t pack_seed_of(const Args& a) {
  return a.given("seed") ? static_cast<uint64_t>(a.num("seed")) : 5934875;
}

}  // namespace sutor
