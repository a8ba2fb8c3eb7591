#pragma once
// The prompt of PESC (arXiv 2401.02731; wuhy68/Parameter-Efficient-MoE, train_moe.py):
//   [### System:\n{instruction}\n]### Human:\n{input}\n### Assistant:\n{output}</s>### Human:\n...
// As a chat template it has what every template has: one bos, all turns, every answer trains with
// its eos. A row that is cut at --seq ends without one: it would teach to stop in mid-sentence.
// Test: tests/pesc_data.cpp.

#include "io/chat.h"
#include "io/packing.h"
#include "io/tokenizer.h"

namespace sutor {

ChatTemplate pesc_template(const Tokenizer& tok);

// Token for token the authors' SupervisedDataset, for comparison with their code: bos as a text and
// once more by the tokenizer; conversations of one turn only, the others are dropped and counted;
// as many tokens are masked as the prompt alone, cut to `seq`, has. Rows of corpus (text) train all
// but bos.
std::vector<Example> encode_pesc_compat(const DataSet& data, const std::string& file,
                                        const Tokenizer& tok, int64_t seq, int64_t& dropped);

}  // namespace sutor
