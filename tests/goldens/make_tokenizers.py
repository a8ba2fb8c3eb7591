#!/usr/bin/env python3
"""Trains four small tokenizers and records what the reference libraries make of hard strings.

    python make_tokenizers.py OUT intent.jsonl law.jsonl      (needs: tokenizers, sentencepiece, transformers 4.51)
"""
import base64
import io
import json
import os
import sys

import sentencepiece as spm
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def text(files, limit=1500):
    for name in files:
        with open(name, encoding="utf-8") as f:
            for i, line in enumerate(f):
                if i >= limit:
                    break
                for m in json.loads(line)["messages"]:
                    yield m["content"]


def byte_level(files, tok, size):
    tok.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    tok.train_from_iterator(text(files), trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    return tok


def deepseek(files):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex("[\r\n]"), "isolated"),
        pre_tokenizers.Split(Regex(r"\s?[\p{Lu}\p{Ll}\p{Lt}]+"), "isolated"),
        pre_tokenizers.Split(Regex(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), "isolated"),
        pre_tokenizers.Split(Regex(r"\s+$"), "isolated"),
        pre_tokenizers.Split(Regex("[一-龥ࠀ-一가-퟿]+"), "isolated"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])
    byte_level(files, tok, 1500)
    tok.add_special_tokens([AddedToken(t, normalized=True, special=True) for t in (BOS, EOS)])
    tok.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tok.token_to_id(BOS))])
    return tok


def qwen(files):
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    byte_level(files, tok, 1500)
    tok.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    tok.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("<mask>", lstrip=True, normalized=False)])
    return tok


def llama(files):
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>"]
    alphabet = [f"<0x{b:02X}>" for b in range(256)]
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)  # only to train in reasonable time
    tok.train_from_iterator(text(files), trainers.BpeTrainer(vocab_size=1500, special_tokens=special + alphabet,
                                                             limit_alphabet=400, show_progress=False))
    j = json.loads(tok.to_str())
    j["pre_tokenizer"] = None
    j["added_tokens"] = [t for t in j["added_tokens"] if t["content"] in special]
    tok = Tokenizer.from_str(json.dumps(j))
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B",
                                                       special_tokens=[("<s>", 1)])
    return tok


CASES = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r\n\r\n x", "a", " a", "a ", " a ", "Hello world", "Hello, world!",
    "Hello <s>.", "don't DON'T we'll WE'LL I'm i'M they've", "你好，世界", "中文 English 混合 123 文本。", "こんにちは世界 カタカナ",
    "안녕하세요 세계", "ᄒ\u1161ᆫ글", "👨\u200d👩\u200d👧\u200d👦 family", "🏳️\u200d🌈🇩🇪👍🏽", "e\u0301 é a\u0308\u0323 ą̊", "\u0301\u0301 lone",
    "\x00\x01\x02\x7f\x1b[0m", "a\x00b", " " * 300, "a" * 500, "7" * 300, "ab" * 400, "- " * 100, "=" * 200, "مرحبا بالعالم ١٢٣",
    "שלום עולם", "\u202eabc\u202c", "<|im_start|>user\nHi<|im_end|>\n", "<|im_start", "<|im_start|", "|im_start|>",
    "<|endoftext|><|endoftext|>", "x<|im_end|>y", BOS, "a" + BOS + " b" + EOS, BOS[:-1], "<｜begin▁of", "</s>", "<s><s>",
    "x <mask> y<mask>", "a\r\nb\rc\nd", "\n \n  \n", "a\u00a0b\u00a0\u00a0c", "ｆｕｌｌ　ｗｉｄｔｈ１２３", "①②③ Ⅳ Ⅻ ½ ²³ ٣ ४",
    "1234567890 3.14 1,000,000", "x=1;y+=2;//c\n\tif(a&&b){return;}", "https://example.com/a?b=c&d=%20", "Ǆ ǅ ǆ ß ẞ İ ı ſ",
    "▁ ▁▁ a▁b", "<0x41><0x0A>", "\ufeffbom", "\ufffd", "ﬁ ﬂ Å Ω", "Ĝĉ Ġ Ċ", "\u2028\u2029\u0085x", "𝔘𝔫𝔦 𐍈 𠜎", "தமிழ் हिन्दी ไทย",
    "trail  \n", "  lead", "a  b   c    d", "‘q’ “q” … — –", "<tool_call>{}</tool_call>", "O'REILLY'S 'S'll", "ꙮ ͏ \u200b\u200c",
]
RAW = [b"\xff", b"abc\x80def", b"\xe4\xbd", b"\xf0\x9f\x98", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\xe2\x82z"]


def main():
    out, files = sys.argv[1], sys.argv[2:]
    cases = [s.encode() for s in CASES] + RAW
    if not files:  # only what needs no training
        return not_legacy(out, cases)
    for name, make in (("deepseek", deepseek), ("qwen", qwen), ("llama", llama)):
        tok = make(files)
        os.makedirs(f"{out}/{name}", exist_ok=True)
        path = f"{out}/{name}/tokenizer.json"
        with open(path, "w", encoding="utf-8") as f:
            f.write(json.dumps(json.loads(tok.to_str()), ensure_ascii=False, separators=(",", ":")))
        tok = Tokenizer.from_file(path)
        rows = []
        for c in cases:
            s = c.decode(errors="replace")
            ids = tok.encode(s).ids
            rows.append({"base64": base64.b64encode(c).decode(), "ids": ids,
                         "plain": tok.encode(s, add_special_tokens=False).ids,
                         "decoded": tok.decode(ids, skip_special_tokens=False),
                         "skipped": tok.decode(ids, skip_special_tokens=True)})
        with open(f"{out}/{name}/cases.json", "w") as f:
            json.dump(rows, f, separators=(",", ":"))
    os.makedirs(f"{out}/spm", exist_ok=True)
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=(s for s in text(files, 300)), model_writer=model, vocab_size=1700, model_type="bpe",
        byte_fallback=True, character_coverage=0.98, split_digits=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, num_threads=1, minloglevel=2)
    with open(f"{out}/spm/tokenizer.model", "wb") as f:
        f.write(model.getvalue())
    p = spm.SentencePieceProcessor(model_proto=model.getvalue())
    rows = []
    for c in cases:
        s = c.decode(errors="replace")
        if "<s>" in s or "</s>" in s or "\0" in s:  # cut out first by the Hugging Face layer, not by the library
            continue
        ids = p.encode(s)
        rows.append({"base64": base64.b64encode(c).decode(), "ids": [1] + ids, "plain": ids, "skipped": p.decode(ids)})
    with open(f"{out}/spm/cases.json", "w") as f:
        json.dump(rows, f, separators=(",", ":"))
    not_legacy(out, cases)


def not_legacy(out, cases):
    """tokenizer.model as transformers' LlamaTokenizer reads it with legacy false (and true, for text with specials)."""
    from transformers import LlamaTokenizer
    variants = []
    for config in ({"legacy": False}, {"legacy": False, "add_prefix_space": False}, {"legacy": True}):
        tok = LlamaTokenizer(f"{out}/spm/tokenizer.model", **config)
        rows = []
        for c in cases:
            s = c.decode(errors="replace")
            if "\0" in s:
                continue
            ids = tok.encode(s)
            if config["legacy"] and not ("<s>" in s or "</s>" in s):
                continue
            skipped = tok.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False,
                                 spaces_between_special_tokens=False)
            rows.append({"base64": base64.b64encode(c).decode(), "ids": ids, "skipped": skipped})
        variants.append({"config": config, "cases": rows})
    with open(f"{out}/spm/not_legacy.json", "w") as f:
        json.dump(variants, f, separators=(",", ":"))


main()
