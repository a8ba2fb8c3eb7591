#include "model/data.h"

namespace sutor {
namespace {

void append(Example& e, const std::vector<int32_t>& ids, bool train) {
  e.ids.insert(e.ids.end(), ids.begin(), ids.end());
  for (int32_t id : ids) e.labels.push_back(train ? id : -100);
}

}  // namespace

std::string stripped(const std::string& s) {
  constexpr const char* kSpace = " \t\r\n\f\v";  // what Python's str.strip() removes of ASCII
  size_t lo = s.find_first_not_of(kSpace);
  return lo == s.npos ? "" : s.substr(lo, s.find_last_not_of(kSpace) - lo + 1);
}

std::string esft_text(const Message& m) {
  return m.role == "assistant" ? " " + stripped(m.content)
                               : "User: " + stripped(m.content) + "\n\nAssistant:";
}

Example encode_esft(const Row& row, const Tokenizer& tok) {
  Example e;
  if (tok.bos() >= 0) append(e, {tok.bos()}, true);
  for (const Message& m : row.messages) {
    if (m.role == "assistant") {
      std::vector<int32_t> ids = tok.encode(esft_text(m), false);
      ids.push_back(tok.eos());
      append(e, ids, m.train);
    } else {
      check(m.role == "user", "the ESFT format knows roles user and assistant, not {}", m.role);
      append(e, tok.encode(esft_text(m), false), false);
    }
  }
  return e;
}

Example encode_template(const Row& row, const Tokenizer& tok, const ChatTemplate& chat) {
  Example e;
  for (const ChatPart& part : chat.parts(row.messages, row.more))
    append(e, tok.encode(part.text, false), part.train);
  return e;
}

std::vector<Example> encode_rows(const DataSet& data, const std::string& file, const Tokenizer& tok,
                                 const ChatTemplate* chat) {
  std::vector<Example> out;
  for (const Row& r : data.rows) {
    if (!r.messages.empty()) {
      try {
        out.push_back(chat ? encode_template(r, tok, *chat) : encode_esft(r, tok));
      } catch (const Error& e) {
        fail("{}:{}: {}", file, r.line, e.what());
      }
    } else if (!r.ids.empty()) {
      for (const std::vector<int32_t>* ids : {&r.ids, &r.labels})
        for (int32_t id : *ids)
          check(id < tok.vocab_size(), "{}:{}: id {} of a vocabulary of {}", file, r.line, id,
                tok.vocab_size());
      out.push_back({r.ids, r.labels, r.line});
    } else {
      Example e;
      append(e, tok.encode(r.prompt, true), false);
      if (r.prompt.empty())
        append(e = {}, tok.encode(r.text, true), true);
      else
        append(e, tok.encode(r.text, false), true);
      if (tok.eos() >= 0) append(e, {tok.eos()}, true);
      out.push_back(std::move(e));
    }
  }
  return out;
}

std::vector<TrainRow> pack(const std::vector<Example>& examples, Packing packing, int64_t seq,
                           int32_t pad, uint64_t seed, int64_t& truncated) {
  std::vector<PackedRow> rows =
      packing == Packing::kDocuments ? pack_documents(examples, seq, truncated)
      : packing == Packing::kNone    ? pack_none(examples, seq, truncated)
                                     : pack_esft_compat(examples, seq, pad, seed, truncated);
  std::vector<TrainRow> out;
  for (PackedRow& r : rows)
    out.push_back({std::move(r.ids), std::move(r.labels), std::move(r.start)});
  return out;
}

}  // namespace sutor
