#include "apps/data_args.h"

#include <cstdio>

#include "apps/run_checkpoint.h"

namespace sutor {

void declare_date(Args& a) {
  a.string("date", "the day that a chat template may print, YYYY-MM-DD: the same on every day",
           kTemplateDate);
}

std::optional<ChatTemplate> dated_template(const Args& a) {
  auto templ = ChatTemplate::load(hub_folder(a.str("MODEL")));
  if (!templ) return templ;
  a.no_effect_unless(templ->asks_date(), "date", "the chat template asks for no date");
  try {
    templ->set_date(a.str("date"));
  } catch (const Error& e) {
    throw UsageError(fmt::format("--date: {}", e.what()));
  }
  return templ;
}

void declare_data(Args& a) {
  a.string("data",
           ".jsonl or .json: messages | instruction + conversation | prompt + completion | text | "
           "input_ids + labels");
  a.choice("format", "prompt of messages: the model's chat template, or the ESFT authors' prompt",
           "template", {"template", "esft"});
  declare_date(a);
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
  const bool rendered = chat && a.str("format") != "esft";
  a.no_effect_unless(rendered, "date", "nothing is rendered by a chat template");
  if (!rendered) return std::nullopt;
  auto templ = dated_template(a);
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
