#!/usr/bin/env python3
"""Writes tokenizer/variants.json: every component of tokenizer.json in its forms, put into the small tokenizers of this folder.

    python make_tokenizer_variants.py          (needs: tokenizers 0.23)

A variant is a base and what replaces its parts; a case is a string, its ids, its ids without the post-processor, and what they decode to.
"""
import base64
import json
import os

from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__)) + "/tokenizer/"
BASE = {n: json.load(open(f"{HERE}{n}/tokenizer.json", encoding="utf-8")) for n in ("qwen", "llama", "deepseek")}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
V3 = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
LLAMA3 = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def seq(*items):
    return {"type": "Sequence", "pretokenizers": list(items)}


def added(base, *tokens):
    first = max([*BASE[base]["model"]["vocab"].values(), *(t["id"] for t in BASE[base]["added_tokens"])]) + 1
    return BASE[base]["added_tokens"] + [
        {"id": first + i, "content": c, "single_word": "w" in f, "lstrip": "l" in f, "rstrip": "r" in f, "normalized": "n" in f,
         "special": "s" in f} for i, (c, f) in enumerate(tokens)]


V = []


def variant(name, base, **parts):
    V.append((name, base, parts))


for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"):
    variant(form, "qwen", normalizer={"type": form})
variant("NFD + accents off", "qwen", normalizer={"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]})
for left, right in ((True, True), (True, False), (False, True)):
    variant(f"strip {left} {right}", "qwen", normalizer={"type": "Strip", "strip_left": left, "strip_right": right})
variant("prepend", "qwen", normalizer={"type": "Prepend", "prepend": "_"})
variant("replace text", "qwen", normalizer={"type": "Replace", "pattern": {"String": "a."}, "content": "<>"})
variant("replace regex", "qwen", normalizer={"type": "Replace", "pattern": {"Regex": "[0-9]+|\\s{2,}"}, "content": "#"})
for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
    variant(f"split {behavior}", "qwen", pre_tokenizer=seq(split("[aeiou ]", behavior), BYTES))
    variant(f"split inverted {behavior}", "qwen", pre_tokenizer=seq(split("[a-z]+", behavior, True), BYTES))
    variant(f"punctuation {behavior}", "qwen", pre_tokenizer=seq({"type": "Punctuation", "behavior": behavior}, BYTES))
variant("split text that looks like a pattern", "qwen", pre_tokenizer=seq(split("\\s+", kind="String"), split("a", "Removed", kind="String"), BYTES))
variant("digits", "qwen", pre_tokenizer=seq({"type": "Digits", "individual_digits": False}, BYTES))
variant("digits one by one", "qwen", pre_tokenizer=seq({"type": "Digits", "individual_digits": True}, BYTES))
variant("whitespace", "qwen", pre_tokenizer=seq({"type": "Whitespace"}, BYTES))
variant("whitespace split", "qwen", pre_tokenizer=seq({"type": "WhitespaceSplit"}, BYTES))
variant("gpt2", "qwen", normalizer=None, pre_tokenizer={**BYTES, "use_regex": True})
variant("gpt2 with a space", "qwen", normalizer=None, pre_tokenizer={**BYTES, "use_regex": True, "add_prefix_space": True})
variant("space, no regex", "qwen", normalizer=None, pre_tokenizer={**BYTES, "add_prefix_space": True})
variant("deepseek v3", "qwen", normalizer={"type": "Sequence", "normalizers": []},
        pre_tokenizer=seq(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(V3), BYTES))
variant("llama 3", "qwen", normalizer=None, pre_tokenizer=seq(split(LLAMA3), BYTES), model={"ignore_merges": True})
variant("olmo", "qwen", normalizer={"type": "NFC"}, pre_tokenizer={**BYTES, "use_regex": True},
        added_tokens=added("qwen", ("  ", "n"), ("   ", "n"), ("|||EMAIL|||", "n")))
for scheme in ("first", "always", "never"):
    for cut in (True, False):
        variant(f"metaspace {scheme} {cut}", "llama", normalizer=None,
                pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut},
                decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut})
variant("old merges, unknown", "llama", model={"merges": "old", "byte_fallback": False, "fuse_unk": False})
variant("unknown fused", "llama", model={"byte_fallback": False, "fuse_unk": True})
variant("no unknown token", "llama", model={"byte_fallback": False, "unk_token": None})
variant("end of word", "llama", normalizer={"type": "Lowercase"}, pre_tokenizer={"type": "Whitespace"}, model={"byte_fallback": True, "end_of_word_suffix": "s"})
for flags in ("", "n", "l", "r", "lr", "w", "wn", "lrn", "s", "sn", "slr", "sw", "swlrn"):
    variant(f"added {flags}", "qwen", normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]},
            added_tokens=added("qwen", ("mask", flags), ("Mask" if "n" not in flags else "Cab", flags), ("<x>", flags), ("ﬁ", flags), ("<x><x>", flags), ("é", flags)))
    variant(f"added {flags} llama", "llama", added_tokens=added("llama", ("mask", flags), ("<x>", flags), ("ab", flags), ("a b", flags)))
variant("decoders", "llama", decoder={"type": "Sequence", "decoders": [
    {"type": "ByteFallback"}, {"type": "Replace", "pattern": {"Regex": "▁+"}, "content": "_"}, {"type": "Strip", "content": "_", "start": 2, "stop": 0},
    {"type": "Fuse"}, {"type": "Strip", "content": "e", "start": 1, "stop": 0}]})
variant("no decoder", "llama", decoder=None)
variant("fallback alone", "llama", decoder={"type": "ByteFallback"})
S = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}, "</s>": {"id": "</s>", "ids": [2, 2], "tokens": ["</s>", "</s>"]}}
variant("template both ends", "llama", post_processor={"type": "TemplateProcessing", "single": [
    {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": S})
variant("processors", "llama", post_processor={"type": "Sequence", "processors": [
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
    {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
     "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": S}]})

CASES = [
    "", " ", "   ", "\n\n \t", "Hello world", " Hello,  world! ", "a.b a.c", "don't WE'LL I'm", "1234567 ½ Ⅻ ٣٤", "你好，世界 カタカナ 한국어", "e\u0301 é ﬁ Å ｆｕｌｌ",
    "x = [1, 2];\n\tif (a && b) {\n\t}\n", "mask", "unmask masked mask.", " mask  mask\nmask", "Mask MASK <x>", "a<x> <x><x>b\u00a0<x>\u3000c", "ﬁmask é_mask", "ab cab a b", "<s>a</s> b<s>",
    "😀👍🏽 🇩🇪", "ǅ İ ß ẞ", "\u200b\ufeff\u00ad", "a\r\nb\rc", "a" * 40 + " " * 20 + "b", "__init__(self)->None:", "|||EMAIL|||   <|im_end|>", "e eee ses", "▁a ▁▁b▁", "\x00\x7f\ue000",
]
out = []
for name, base, parts in V:
    j = json.loads(json.dumps(BASE[base]))
    for k, v in parts.items():
        if k == "model":
            if v.get("merges") == "old":
                v = {**v, "merges": [m if isinstance(m, str) else " ".join(m) for m in j["model"]["merges"]]}
            if "end_of_word_suffix" in v:
                v = {**v, "merges": []}
            j["model"].update(v)
        else:
            j[k] = v
    parts = {k: (v if k != "model" else {a: ("old" if a == "merges" and b else b) for a, b in {**v, **({"merges": []} if "end_of_word_suffix" in v else {})}.items()})
             for k, v in parts.items()}
    tok = Tokenizer.from_str(json.dumps(j))
    cases = []
    for c in CASES:
        ids = tok.encode(c).ids
        # The library does not skip special tokens that normalisation changes: it asks by the changed text. We do.
        quirk = any(t["special"] and t["normalized"] for t in j["added_tokens"]) and j["normalizer"]
        cases.append([base64.b64encode(c.encode()).decode(), ids, tok.encode(c, add_special_tokens=False).ids,
                      tok.decode(ids, skip_special_tokens=False), None if quirk else tok.decode(ids, skip_special_tokens=True)])
    out.append({"name": name, "base": base, "parts": parts, "cases": cases})
with open(HERE + "variants.json", "w", encoding="utf-8") as f:
    f.write("[" + ",\n".join(json.dumps(v, ensure_ascii=False, separators=(",", ":")) for v in out) + "]\n")
print(len(out), "variants of", len(CASES), "strings")
