#!/usr/bin/env python3
"""Makes tests/golden/tokenizer_*.json: small tokenizers, and what Hugging Face's
tokenizers package (0.23.3; https://pypi.org/project/tokenizers) makes of tricky
texts with them. tests/test_tokenizer.c compares. What special tokens leave of a text
is got by leaving them out of the ids, since 0.23 keeps those that a normalizer changes.

    python3 tools/golden_tokenizer.py [--shared DIR]

run from the root of the repository. DIR (../shared by default) may hold
models/story/tokenizer.json and data/tinyshakespeare.txt; without them the numbers
of that tokenizer stay as they are. tokenizer_bytes.json is what
tokenizer_save_bytes writes, and is only read here. Everything is seeded, but a
newer package may train other merges: then all files change together.
"""

import argparse
import json
import os
import random

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

GOLDEN = "tests/golden"
LLAMA3_REGEX = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
MARK = "\u2581"


def corpus():
    """Made-up sentences: words of a few syllables, numbers, signs, line ends."""
    rng = random.Random(7)
    syllables = "ta ri so len mer que ist an the ing ver \u00e9t na\u00ef gr\u00fc \u0431\u043e\u043b \u0442\u0430 \u65e5 \u672c".split()
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(150)]
    words += ["don't", "we'll", "I'M", "2024", "3.14", "x=y;", "\U0001f642", "->", "{", "}"]
    weights = [1 / (1 + i % 53) for i in range(len(words))]
    lines = []
    for _ in range(500):
        line = " ".join(rng.choices(words, weights, k=rng.randint(1, 14)))
        lines.append(rng.choice(["", "", "    ", "\t"]) + line + rng.choice([".", "!", ",", "", "\n"]) + "\n")
    return lines


def added(content, **flags):
    token = {"id": None, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
    token.update(flags)
    return token


def finish(name, tokenizer, edit):
    """Writes a trained tokenizer, after editing it as JSON, in few bytes."""
    data = json.loads(tokenizer.to_str())
    edit(data)
    next_id = max(data["model"]["vocab"].values()) + 1
    for token in data["added_tokens"]:
        if token["content"] in data["model"]["vocab"]:
            token["id"] = data["model"]["vocab"][token["content"]]
        else:
            token["id"] = next_id
            next_id += 1
    with open(f"{GOLDEN}/{name}", "w") as file:
        json.dump(data, file, separators=(",", ":"))
        file.write("\n")


def byte_level(name, split, edit):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=600, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    finish(name, tokenizer, edit)


def drop_merges(data, rng):
    """Leaves tokens that merges can't reach any more: ignore_merges is to find them."""
    data["model"]["ignore_merges"] = True
    used = {part for merge in data["model"]["merges"] for part in merge}
    data["model"]["merges"] = [m for m in data["model"]["merges"] if "".join(m) in used or rng.random() < 0.5]


def llama3_edit(data):
    drop_merges(data, random.Random(8))
    data["added_tokens"] = [added("<|begin_of_text|>"), added("<|end|>"), added("<|end|>|", special=False),
                            added("  wide  ", special=False, normalized=True)]
    begin = max(data["model"]["vocab"].values()) + 1
    data["post_processor"] = {"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        {"type": "TemplateProcessing",
         "single": [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
         "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
         "special_tokens": {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [begin],
                                                  "tokens": ["<|begin_of_text|>"]}}}]}


def gpt2_edit(data):
    data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    data["model"]["continuing_subword_prefix"] = data["model"]["end_of_word_suffix"] = ""
    del data["model"]["type"]
    data["added_tokens"] = [added("<|endoftext|>", normalized=True)]


def prefix_edit(data):
    gpt2_edit(data)
    data["pre_tokenizer"]["add_prefix_space"] = True
    data["added_tokens"] += [added("<mask>", lstrip=True), added("<gap>", rstrip=True)]


def metaspace(name, pre, normalizer, decoder, fallback, edit):
    """Words with marks, trained like Llama 2: with or without cutting at spaces."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=fallback))
    if pre:
        tokenizer.pre_tokenizer = pre
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoder
    special = ["<unk>", "<s>", "</s>"] + ([f"<0x{byte:02X}>" for byte in range(256)] if fallback else [])
    text = [line for line in corpus() if "\u65e5" not in line and "\U0001f642" not in line]
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=600 if fallback else 350, show_progress=False, special_tokens=special, max_token_length=12))

    def outer(data):
        data["added_tokens"] = [added("<unk>"), added("<s>"), added("</s>")]
        edit(data)
    finish(name, tokenizer, outer)


def dense(name):
    """Every pair of words over {a, b} up to length 5 merges, in random order: the
    same token arises in several ways, and old candidates come up late."""
    rng = random.Random(9)
    words = [format(i, f"0{n}b").replace("0", "a").replace("1", "b") for n in range(1, 6) for i in range(2 ** n)]
    merges = [(x, y) for x in words for y in words if len(x + y) <= 5]
    rng.shuffle(merges)
    tokenizer = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=merges))
    finish(name, tokenizer, lambda data: data["model"].update(unk_token=None))


def make_tokenizers():
    llama2 = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    llama2_decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(),
                                        decoders.Strip(" ", 1, 0)])
    byte_level("tokenizer_gpt2.json", pre_tokenizers.ByteLevel(add_prefix_space=False), gpt2_edit)
    byte_level("tokenizer_prefix.json", pre_tokenizers.ByteLevel(add_prefix_space=False), prefix_edit)
    byte_level("tokenizer_llama3.json", pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_REGEX), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), llama3_edit)
    metaspace("tokenizer_llama2.json", None, llama2, llama2_decoder, True, lambda data: None)
    metaspace("tokenizer_first.json", pre_tokenizers.Metaspace(prepend_scheme="first", split=False), None,
              llama2_decoder, True, lambda data: None)

    def words_edit(data):
        data["model"]["fuse_unk"] = False
        data["model"]["vocab"][MARK + MARK] = len(data["model"]["vocab"])
        data["model"]["merges"].append([MARK, MARK])  # never happens: pieces have one mark
        data["added_tokens"] += [added("<tag>", normalized=True, special=False), added("new line", normalized=True)]
    metaspace("tokenizer_words.json", pre_tokenizers.Metaspace(prepend_scheme="always", split=True), None,
              decoders.Metaspace(prepend_scheme="always", split=True), False, words_edit)
    dense("tokenizer_dense.json")


TRICKY = [
    "", " ", "  ", "a", " a", "a ", "Hello world", "  Hello   world  ", "\n", "\n\n", "a\n\nb", " \n ", "\t\tx", "\r\n \r\n",
    "don't I'LL we'Ve 's 'S 'sx we'll've", "12345 678,90 1 22 333 4444", "h\u00e9llo \u00f1and\u00fa na\u00efve", "e\u0301 a\u0308\u0323",
    "\u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8", "\U0001f642\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u00a0x\u3000y\u2028z\u0085w\u2003\u2003v", "\ufeffBOM\ufffd", "x" * 300, " " * 200 + "x" + " " * 50, "\n" * 70 + "  ta",
    f"{MARK} already{MARK}{MARK}marked {MARK}", "\x00\x01\x1f\x7f", "'\u017f \u017f's", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0939\u093f\u0928\u094d\u0926\u0940",
    "\u2460\u2167\u00bd\u0663", "<0x41><0x0A>", "if (x=y;) {\n\treturn 3.14;  // the\n}\n", "tarisolen merqueist \u0431\u043e\u043b\u0442\u0430 anthe",
    "<unk>", "a<unk>b", "a <unk> b", "<s>a</s>", " <s> </s> ", "<|begin_of_text|>ta<|end|>|<|end|>", "<|endof", "<|endoftext|><|endoftext|>",
    "ta <|endoftext|>  ta", "  <mask> ta  <mask>  ", "ta <gap>  <gap> \n x<mask>", "<gap> \u3000 <mask>", "<tag> ta<tag>", "new line new  line",
    "ta  wide  ta   wide   ", "<|begin|>ta<|end|>", "<|start_story|>Once upon a time<|end_story|>", "foo <|end_story|> bar",
    "Once upon a time, there was a little girl named Lily.", "ab" * 40, "aaabbbabababbbaab", "\u0101\u0100\u0143\u010a",
]
BROKEN = [b"\xff", b"a\xc3", b"a\xc3b", b"\xe2\x82", b"\xe2\x82x", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80",
          b"\x80\x80ta", b"\xe0\x80\x80", b"ta\xf0\x9f\x98\xf0\x9f\x99\x82", b"\xf8\x88\x80\x80\x80"]
PARTS = ["ta", "ri", "lenmer", "Ist", " ", "  ", "\n", "\t", "'s", "'LL", "42", "7", ".", "!?", "\u00e9", "\u0431\u043e", "\u65e5", "\U0001f642", MARK,
         "\u0301", "\u00a0", "a", "b", "ab", "bba", "{", "}", "<s>", "<unk>", "<|end|>", "<mask>", "<gap>", "<tag>", "_", "-"]


def texts():
    rng = random.Random(10)
    result = [text.encode() for text in TRICKY] + BROKEN
    for _ in range(60):
        result.append("".join(rng.choices(PARTS, k=rng.randint(1, 40))).encode())
    for _ in range(12):
        result.append("".join(rng.choices("ab", k=rng.randint(2, 400))).encode())
    for _ in range(10):
        result.append(rng.randbytes(rng.randint(1, 40)))
    return result


def short(case):
    """Leaves out a text that is as the bytes, and then a skip that is as the text."""
    if case["skip"] == case["text"]:
        del case["skip"]
    if case["text"] == case.get("bytes"):
        del case["text"]
    return case


def cases(tokenizer, lossless=False):
    """Texts with their ids, and ids (among them nonsense) with their texts: decoded
    with special tokens, and skip without."""
    rng = random.Random(11)
    result = []

    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}

    def text_of(ids, skip):
        ids = [i for i in ids if not (skip and i in special)]
        return tokenizer.decode(ids, skip_special_tokens=False).encode().hex()

    for text in texts():
        if lossless and text.decode(errors="replace").encode() != text:
            continue
        ids = tokenizer.encode(text.decode(errors="replace"), add_special_tokens=False).ids
        result.append(short({"bytes": text.hex(), "ids": ids, "text": text_of(ids, False), "skip": text_of(ids, True)}))
    top = tokenizer.get_vocab_size() + 3
    for _ in range(40):
        ids = [rng.randrange(top) for _ in range(rng.randint(0, 12))]
        result.append(short({"ids": ids, "text": text_of(ids, False), "skip": text_of(ids, True)}))
    return result


def write(name, data):
    """JSON with one case to a line."""
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in data.pop("cases"))
    head = "".join(f"{json.dumps(key)}:{json.dumps(value)},\n" for key, value in data.items())
    with open(f"{GOLDEN}/{name}", "w") as file:
        file.write("{" + head + '"cases":[\n' + lines + "\n]}\n")


def fnv(ids):
    value = 0xCBF29CE484222325
    for token in ids:
        for byte in token.to_bytes(4, "little"):
            value = (value ^ byte) * 0x100000001B3 % 2 ** 64
    return f"{value:016x}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shared", default="../shared")
    shared = parser.parse_args().shared
    make_tokenizers()
    for name in ("gpt2", "prefix", "llama3", "llama2", "first", "words", "dense", "bytes"):
        tokenizer = Tokenizer.from_file(f"{GOLDEN}/tokenizer_{name}.json")
        write(f"tokenizer_{name}_cases.json", {"vocab": tokenizer.get_vocab_size(),
                                               "cases": cases(tokenizer, name == "bytes")})
    story = f"{shared}/models/story/tokenizer.json"
    if os.path.exists(story):
        tokenizer = Tokenizer.from_file(story)
        with open(f"{shared}/data/tinyshakespeare.txt", newline="") as file:
            ids = tokenizer.encode(file.read(), add_special_tokens=False).ids
        write("tokenizer_story_cases.json", {"vocab": tokenizer.get_vocab_size(), "count": len(ids),
                                             "fnv": fnv(ids), "first": ids[:256], "cases": cases(tokenizer)})


if __name__ == "__main__":
    main()
