#include "apps/data_args.h"

#include <algorithm>

#include "apps/run_checkpoint.h"
#include "model/pesc_prompt.h"

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

void declare_data(Args& a, bool training) {
  a.string("data",
           ".jsonl or .json: messages | instruction + conversation | corpus | prompt + completion "
           "| text | input_ids + labels");
  std::vector<std::string> formats{"template", "esft", "pesc"};
  if (training) formats.push_back("pesc-compat");
  a.choice("format",
           training ? "prompt of messages: the model's chat template, the ESFT or the PESC "
                      "authors' prompt; pesc-compat: their very tokens and mean of means"
                    : "prompt of messages: the model's chat template, the ESFT or the PESC "
                      "authors' prompt",
           "template", formats);
  declare_date(a);
  a.flag("skip-bad-rows", "count rows that fit no kind instead of stopping");
}

DataSet load_rows(const Args& a, const std::string& file, RowKind kind) {
  DataSet data = read_dataset(file, a.on("skip-bad-rows"), kind);
  if (data.skipped > 0) note("{}: {} bad rows skipped\n", file, data.skipped);
  return data;
}

std::optional<ChatTemplate> chat_template(const Args& a, const DataSet& data,
                                          const Tokenizer& tok) {
  bool chat = false;
  for (const Row& r : data.rows) chat |= !r.messages.empty();
  a.no_effect_unless(chat, "format", "no row has messages");
  const bool rendered = chat && a.str("format") == "template";
  a.no_effect_unless(rendered, "date", "nothing is rendered by a chat template");
  if (chat && a.str("format") == "pesc") return pesc_template(tok);
  if (!rendered) return std::nullopt;
  auto templ = dated_template(a);
  check(templ.has_value(),
        "{}: has no chat template (chat_template.jinja, or chat_template in "
        "tokenizer_config.json); --format esft or pesc needs none",
        a.str("MODEL"));
  return templ;
}

std::vector<Example> load_examples(const Args& a, const std::string& file, const Tokenizer& tok) {
  DataSet data = load_rows(a, file, RowKind::kText);
  if (a.str("format") == "pesc-compat") {
    a.no_effect_unless(false, "date", "nothing is rendered by a chat template");
    int64_t dropped = 0;
    auto examples = encode_pesc_compat(data, file, tok, a.num("seq"), dropped);
    if (dropped > 0)
      note("{}: {} conversations of several turns left out, as the PESC authors' code does\n", file,
           dropped);
    return examples;
  }
  auto chat = chat_template(a, data, tok);
  return encode_rows(data, file, tok, chat ? &*chat : nullptr);
}

void check_packing(const Args& a, const std::vector<Example>& examples) {
  const bool ready =
      std::all_of(examples.begin(), examples.end(), [](const Example& e) { return e.row != 0; });
  // Of several micro-batches it also says how their losses are averaged.
  const bool compat = a.str("packing") == "esft-compat" && a.num("grad-accum") == 1;
  a.no_effect_unless(!ready || !compat, "packing", "rows of input_ids are taken as they are");
}

bool mean_of_means(const Args& a) {
  return a.str("packing") == "esft-compat" || a.str("format") == "pesc-compat";
}

namespace {

std::vector<TrainRow> packed(const Args& a, const std::string& file, const Tokenizer& tok,
                             Packing packing, uint64_t seed, bool training) {
  int64_t truncated = 0;
  const std::vector<Example> examples = load_examples(a, file, tok);
  if (training) check_packing(a, examples);
  std::vector<TrainRow> rows = pack(examples, packing, a.num("seq"), tok.eos(), seed, truncated);
  if (truncated > 0)
    note("{}: {} examples were cut: rows hold --seq {} tokens\n", file, truncated, a.num("seq"));
  return rows;
}

}  // namespace

std::vector<TrainRow> training_rows(const Args& a, const std::string& file, const Tokenizer& tok) {
  std::vector<TrainRow> rows = packed(a, file, tok, packing_of(a), pack_seed_of(a), true);
  // A row of which nothing trains (its answer was cut off, or every label is -100) would end a step
  // of its own; it is left out before the first one.
  const size_t all_rows = rows.size();
  std::erase_if(rows, [](const TrainRow& r) {
    return std::none_of(r.labels.begin() + 1, r.labels.end(), [](int32_t l) { return l >= 0; });
  });
  check(!rows.empty(), "{}: no row has a trained token within --seq {} tokens", file, a.num("seq"));
  if (rows.size() < all_rows)
    note("{}: {} of {} rows have no trained token (cut at --seq {}, or masked); left out\n", file,
         all_rows - rows.size(), all_rows, a.num("seq"));
  return rows;
}

std::vector<TrainRow> evaluation_rows(const Args& a, const std::string& file,
                                      const Tokenizer& tok) {
  return packed(a, file, tok, Packing::kDocuments, 0, false);
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
