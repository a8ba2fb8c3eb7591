#include "model/data.h"

#include <algorithm>

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
  const std::vector<ChatPart> parts = chat.parts(row.messages, row.more);
  std::string whole;
  for (const ChatPart& p : parts) whole += p.text;
  Example e;
  append(e, tok.encode(whole, false), false);
  const bool lossless = tok.decode(e.ids) == whole;
  std::vector<size_t> ends;  // of each token in the text, a cut character as the sign that shows it
  auto ends_of = [&]() -> const std::vector<size_t>& {
    StreamDecoder stream(tok);
    size_t sent = 0;
    for (size_t i = ends.size(); i < e.ids.size(); ++i) {
      sent += stream.push(e.ids[i]).size();
      ends.push_back(sent + StreamDecoder(stream).finish().size());
    }
    return ends;
  };
  // Tokens that end within the first `at` bytes of the text; and whether the next one crosses.
  auto tokens_within = [&](size_t at) {
    const std::vector<int32_t> before = tok.encode(std::string_view(whole).substr(0, at), false);
    auto agree = std::mismatch(before.begin(), before.end(), e.ids.begin(), e.ids.end()).first;
    auto n = static_cast<size_t>(agree - before.begin());
    bool crosses = n < before.size();
    if (crosses && lossless) {  // the cut changed tokens further left too: go by the text
      const std::vector<size_t>& end = ends_of();
      while (n < end.size() && end[n] <= at) ++n;
      crosses = n < end.size() && (n == 0 ? 0 : end[n - 1]) < at;
    }
    return std::pair(n, crosses);
  };
  size_t begin = 0;
  for (const ChatPart& p : parts) {
    const size_t end = begin + p.text.size();
    if (p.train && end > begin) {
      const size_t first = tokens_within(begin).first;
      auto [last, crosses] = tokens_within(end);
      if (crosses && last < e.ids.size()) ++last;  // it is the answer's too, as in transformers
      for (size_t i = first; i < last; ++i) e.labels[i] = e.ids[i];
    }
    begin = end;
  }
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
