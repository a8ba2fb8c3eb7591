#pragma once
// From rows of text to rows of tokens: prompt formats, loss masks, packing.

#include "io/chat.h"
#include "io/dataset.h"
#include "io/packing.h"
#include "io/tokenizer.h"
#include "model/trainer.h"

namespace sutor {

enum class Packing { kDocuments, kNone, kEsftCompat };

std::string stripped(const std::string& s);  // white space at both ends removed
// A message as the ESFT authors' prompt has it, without bos and eos (deepseek-ai/ESFT, utils.py).
std::string esft_text(const Message& m);

// The ESFT authors' prompt (utils.py): bos, "User: {x}\n\nAssistant:", " {y}" + eos; each part
// tokenised by itself; the label of bos is bos. The answers train.
Example encode_esft(const Row& row, const Tokenizer& tok);
// The model's chat template; the answers train: by its {% generation %} blocks, else by what each
// answer adds to the prompt. The conversation is tokenised as a whole, as it will be read; a token
// that holds an end of an answer trains (transformers' return_assistant_tokens_mask).
Example encode_template(const Row& row, const Tokenizer& tok, const ChatTemplate& chat);
// The others: prompt + completion (the completion trains, eos added), text (everything trains, eos
// added), ready ids.
std::vector<Example> encode_rows(const DataSet& data, const std::string& file, const Tokenizer& tok,
                                 const ChatTemplate* chat);

std::vector<TrainRow> pack(const std::vector<Example>& examples, Packing packing, int64_t seq,
                           int32_t pad, uint64_t seed, int64_t& truncated);

}  // namespace sutor
