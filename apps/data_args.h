#pragma once
// --data and how its rows become tokens: shared by score, train and eval.

#include "apps/args.h"
#include "model/data.h"

namespace sutor {

// `training`: also the PESC authors' own encoding, which only a comparison with their code wants.
void declare_data(Args& a, bool training = false);
// --date, for whatever renders messages; MODEL's template, if there is one, under it.
void declare_date(Args& a);
std::optional<ChatTemplate> dated_template(const Args& a);
// The data's examples under the options; warns on stderr of skipped rows.
std::vector<Example> load_examples(const Args& a, const std::string& file, const Tokenizer& tok);
// The rows that train, packed under --packing and --seq, and those of --eval-data, each document
// whole; says on stderr what was cut or left out.
std::vector<TrainRow> training_rows(const Args& a, const std::string& file, const Tokenizer& tok);
std::vector<TrainRow> evaluation_rows(const Args& a, const std::string& file, const Tokenizer& tok);
// The rows of `file` under --skip-bad-rows; warns of skipped ones.
DataSet load_rows(const Args& a, const std::string& file, RowKind kind);
// What renders messages: empty for --format esft, and when no row has messages (--format is then an
// error).
std::optional<ChatTemplate> chat_template(const Args& a, const DataSet& data, const Tokenizer& tok);
Packing packing_of(const Args& a);
// --packing esft-compat is an error where every example is a ready row.
void check_packing(const Args& a, const std::vector<Example>& examples);
// The loss of a step is the mean of its micro-batches' means, as both authors' trainers have it.
bool mean_of_means(const Args& a);
// The seed of --packing: --seed, or else the one of the ESFT authors' configs/base.yaml.
uint64_t pack_seed_of(const Args& a);

}  // namespace sutor
