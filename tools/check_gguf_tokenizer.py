#!/usr/bin/env python3
"""Compares ids and texts by the tokenizer in a GGUF file with those of Hugging Face's tokenizers.

    python3 tools/check_gguf_tokenizer.py BUILD [--megabytes N] [--seed N]

For each kind of tokenizer.ggml.pre that a family of check_tokenizers.py has, and for vocabularies by scores, a small one
is trained, written as GGUF with the package gguf, and read by both sides: ours from the GGUF file, theirs from the
tokenizer.json that it was made from. Merges of vocabularies by scores are those of transformers' own converter. A
table; exit status 1: a difference, which is printed. Needs tokenizers, gguf and transformers (0.23.3, 0.19.0 and 5.24.0
are what it was written against), and make tests first.
"""
import argparse
import json
import random
import sys
import tempfile

import check_tokenizers as check
import gguf
import numpy as np
from tokenizers import Tokenizer
from transformers.tokenization_utils_base import generate_merges

# a family of check_tokenizers.py: tokenizer.ggml.model, .pre and general.architecture
KINDS = {"llama-3": ("gpt2", "llama-bpe", "llama"), "qwen2, qwen3": ("gpt2", "qwen2", "qwen2"),
         "gpt-oss": ("gpt2", "gpt-4o", "gpt-oss"), "mistral-nemo": ("gpt2", "tekken", "llama"),
         "olmo-2": ("gpt2", "dbrx", "olmo2"), "smollm": ("gpt2", "smollm", "llama"), "granite": ("gpt2", "refact", "granite"),
         "llama-2, mixtral": ("llama", None, "llama"), "phi-3": ("llama", None, "phi3"), "gemma": ("llama", None, "gemma2")}
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6


def types_of(data, tokens):
    added = {token["content"]: token["special"] for token in data["added_tokens"]}

    def kind(token):
        if token == "<unk>" and data["model"]["unk_token"]:
            return UNKNOWN
        if token in added:
            return CONTROL if added[token] else USER
        return BYTE if len(token) == 6 and token.startswith("<0x") else NORMAL

    return [kind(token) for token in tokens]


def by_scores(data, gemma):
    """The same with the merges that its vocabulary implies, and the scores."""
    vocab = data["model"]["vocab"]
    scores = {token: -float(number) for token, number in vocab.items()}
    data["model"]["merges"] = [list(pair) for pair in generate_merges(vocab, scores)]
    rng = random.Random(5)
    return [rng.random() for _ in range(2 * len(vocab))] if gemma else None


def write(path, data, model, pre, architecture, scores):
    vocab = dict(data["model"]["vocab"])
    for token in data["added_tokens"]:
        vocab.setdefault(token["content"], token["id"])
    tokens = sorted(vocab, key=vocab.get)
    spaces = {token: " " * len(token) for token in tokens if len(token) > 1 and set(token) == {check.MARK}}
    types = types_of(data, tokens)
    if architecture.startswith("gemma"):  # as the converter of such files has runs of spaces
        types = [USER if token in spaces else kind for token, kind in zip(tokens, types)]
        tokens = [spaces.get(token, token) for token in tokens]
    w = gguf.GGUFWriter(path, architecture)
    w.add_tokenizer_model(model)
    if pre:
        w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types(types)
    if model == "llama":
        w.add_token_scores((scores or [-float(n) for n in range(len(tokens))])[:len(tokens)])
        w.add_add_space_prefix(not architecture.startswith("gemma"))
    else:
        w.add_token_merges([" ".join(pair) for pair in data["model"]["merges"]])
    w.add_tensor("token_embd.weight", np.zeros((1, 32), np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def reference(data, pre):
    """What such files can't say: white space around a token, and where a piece ends at spaces."""
    for token in data["added_tokens"]:
        token.update(lstrip=False, rstrip=False, single_word=False, normalized=False)
    data["model"]["ignore_merges"] &= pre != "gpt-4o"
    if data["model"]["byte_fallback"]:
        data["pre_tokenizer"] = None
    return data


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("build")
    parser.add_argument("--megabytes", type=float, default=2)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    sample = check.mixed_text(rng, 400_000).replace("\0", "")
    texts = [check.mixed_text(rng, 20_000) for _ in range(int(given.megabytes * 50))]
    texts += [check.mixed_text(rng, 60) for _ in range(500)] + ["a" * 5000, " " * 5000, "  x", "", " ", "\n\n\n"]
    failed = 0
    print(f"{'kind':<18} {'model':>6} {'pre':>10} {'tokens':>9} {'equal':>6}")
    with tempfile.TemporaryDirectory() as folder:
        program = check.build(given.build, folder)
        for kind, (model, pre, architecture) in KINDS.items():
            data = reference(check.train(kind, sample), pre)
            scores = by_scores(data, architecture.startswith("gemma")) if model == "llama" else None
            write(f"{folder}/model.gguf", data, model, pre, architecture, scores)
            theirs = Tokenizer.from_str(json.dumps(data))
            faults, tokens, _, _ = check.compare(theirs, check.Ours(program, f"{folder}/model.gguf"), texts)
            failed += bool(faults)
            print(f"{kind:<18} {model:>6} {pre or '-':>10} {tokens:>9} {'no' if faults else 'yes':>6}", flush=True)
            for fault in faults[:3]:
                print("    " + fault)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
