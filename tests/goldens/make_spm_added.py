#!/usr/bin/env python3
"""Added tokens beside tokenizer.model: what transformers 5.23's LlamaTokenizer makes of them, there and back.

    python make_spm_added.py tests/goldens/tokenizer/spm        (environment hf, with sentencepiece and protobuf)

Writes added.json: per configuration texts with their ids and what decode gives, with special tokens and without.
"""
import json
import os
import shutil
import sys
import tempfile

from transformers import LlamaTokenizer

TEXTS = ["a<tool>b", "a <tool> b", "<|user|>Hello there</s>", "<|user|> Hello  <tool><tool>x</s>", " lead", "x<tool>", "<tool>x",
         "<tool> <|user|>", "é<tool>你好 <tool>é", "a<s>b </s>"]


def token(content, special):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": special}


def main():
    folder = sys.argv[1]
    added = {"0": token("<unk>", True), "1": token("<s>", True), "2": token("</s>", True), "1700": token("<|user|>", True),
             "1701": token("<tool>", False)}
    out = []
    for more in ({"legacy": False}, {"legacy": False, "add_prefix_space": False}, {"legacy": True}):
        config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
                  "clean_up_tokenization_spaces": False, "added_tokens_decoder": added, **more}
        with tempfile.TemporaryDirectory() as at:
            shutil.copy(f"{folder}/tokenizer.model", at)
            with open(f"{at}/tokenizer_config.json", "w") as f:
                json.dump(config, f)
            tok = LlamaTokenizer.from_pretrained(at)
        cases = []
        for text in TEXTS:
            ids = tok.encode(text, add_special_tokens=False)
            cases.append({"text": text, "ids": ids, "decoded": tok.decode(ids),
                          "skipped": tok.decode(ids, skip_special_tokens=True)})
        out.append({"config": config, "cases": cases})
    with open(f"{folder}/added.json", "w") as f:
        json.dump(out, f, separators=(",", ":"))


main()
