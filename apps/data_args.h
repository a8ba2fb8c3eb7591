#pragma once
// --data and how its rows become tokens: shared by score, train and eval.

#include "apps/args.h"
#include "model/data.h"

namespace sutor {

void declare_data(Args& a);
// --date, for whatever renders messages; MODEL's template, if there is one, under it.
void declare_date(Args& a);
std::optional<ChatTemplate> dated_template(const Args& a);
// The data's examples under the options; warns on stderr of skipped rows.
std::vector<Example> load_examples(const Args& a, const std::string& file, const Tokenizer& tok);
// The rows of `file` under --skip-bad-rows; warns of skipped ones.
DataSet load_rows(const Args& a, const std::string& file, RowKind kind);
// What renders messages: empty for --format esft, and when no row has messages (--format is then an
// error).
std::optional<ChatTemplate> chat_template(const Args& a, const DataSet& data);
Packing packing_of(const Args& a);
// The seed of --packing: --seed, or else the one of the ESFT authors' configs/base.yaml.
uint64_t pack_seed_of(const Args& a);

}  // namespace sutor
