#!/usr/bin/env python3
"""Makes tests/golden/tokenizer_parts.json, tokenizer_regex.json and tokenizer_configs.json:
what tokenizers 0.23.3 (https://pypi.org/project/tokenizers) makes of each part that a
tokenizer.json can have, and transformers 5.24.0 of the files beside one.
tests/test_tokenizer_parts.c compares.

    python3 tools/golden_tokenizer_parts.py

run from the root of the repository. Everything is seeded.
"""

import json
import os
import random
import subprocess
import sys
import tempfile

os.environ["RUST_BACKTRACE"] = "0"
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from check_tokenizers import BEHAVIORS, CL100K, HAN, O200K, PHI4, QWEN, TEKKEN, odd_config, odd_processor, quiet
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from golden_tokenizer import fnv

GOLDEN = "tests/golden"
MARK = "\u2581"
P, N, D = pre_tokenizers, normalizers, decoders


def plain(part):
    """A part as JSON."""
    return json.loads(part.__getstate__()) if part is not None else None


def base():
    """Bytes, and what merges an a with the byte behind it, and a byte with a b behind it: so a cut shows."""
    alphabet = sorted(P.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)}
    merges = []
    for pair in [("a", c) for c in alphabet] + [(c, "b") for c in alphabet if c != "a"]:
        vocab["".join(pair)] = len(vocab)
        merges.append(pair)
    for token in [MARK, "<unk>", "\u00e9"]:
        vocab.setdefault(token, len(vocab))
    return vocab, merges


def codes_text():
    """Each character between an a and a b, as the test makes it."""
    return "".join(f"a{chr(code)}b" for code in range(0x32400) if not 0xD800 <= code < 0xE000)


def tokenizer_of(change):
    vocab, merges = base()
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    data = json.loads(tokenizer.to_str())
    data.update({key: value for key, value in change.items() if key != "model"})
    data["model"].update(change.get("model", {}))
    return Tokenizer.from_str(json.dumps(data))


def level(*parts):
    return P.Sequence([*parts, P.ByteLevel(add_prefix_space=False, use_regex=False)])


def over_codes():
    """Parts that look at characters: their ids over all characters as one number."""
    text = codes_text()
    parts = {"normalizer": [N.NFC(), N.NFD(), N.NFKC(), N.NFKD(), N.Lowercase(), N.StripAccents(), N.Nmt()],
             "pre_tokenizer": [P.Digits(True), P.Punctuation("isolated"), P.Whitespace(), P.WhitespaceSplit()]}
    classes = [r"\p{L}", r"\p{Lu}", r"\p{Ll}", r"\p{Lt}", r"\p{Lm}", r"\p{Lo}", r"\p{M}", r"\p{N}", r"\p{Nd}", r"\p{P}", r"\p{S}", r"\p{Z}", r"\p{C}",
               r"\p{Han}", r"\p{Hiragana}", r"\p{Katakana}", r"\p{Cyrillic}", r"\w", r"[\w]", r"\s", r"\d", r"\h", r"[[:punct:]]", r"[[:alnum:]]", r"[[:graph:]]",
               r"[[:print:]]", r"[[:upper:]]", r"[[:lower:]]", r"[[:blank:]]", r"[[:cntrl:]]", r"[\p{L}&&[^\p{Han}]]", r"\b"]
    result = []
    for part in parts["normalizer"]:
        result.append({"change": {"normalizer": plain(part), "pre_tokenizer": plain(level())}})
    for part in parts["pre_tokenizer"]:
        result.append({"change": {"pre_tokenizer": plain(level(part))}})
    for pattern in classes:
        result.append({"change": {"pre_tokenizer": plain(level(P.Split(Regex(pattern), "isolated")))}})
    for case in result:
        case["fnv"] = fnv(tokenizer_of(case["change"]).encode(text, add_special_tokens=False).ids)
    return result


def texts_of(rng, count):
    words = ["a", "b", "ab", "the", "The", " ", "  ", "\n", ".", ",.", "12", "345", "\u0663", "'s", "'LL", "x=y", MARK, "_", "\u00e9", "e\u0301", "\u4e16\u754c", "\U0001f642",
             "<s>", " <s> ", "<mask>", "word", "<unk>", "\u00a0", "\u3000", "\u2460", "A", "HTTP", "\r\n", "-"]
    return ["".join(rng.choices(words, k=rng.randint(0, 12))) for _ in range(count)]


def cases_of(tokenizer, texts):
    cases = []
    for text in texts:
        try:
            with quiet():
                ids = tokenizer.encode(text, add_special_tokens=False).ids
        except BaseException:  # its books of what normalizers remove are wrong at times, and it panics
            continue
        cases.append({"bytes": text.encode().hex(), "ids": ids, "text": (tokenizer.decode(ids, skip_special_tokens=False) if ids else "").encode().hex()})
        if cases[-1]["text"] == cases[-1]["bytes"]:
            del cases[-1]["text"]
    return cases


def token(content, **flags):
    return {"id": 0, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False, **flags}


def variants():
    rng = random.Random(21)
    splits = [P.Split(Regex(r"\w+"), behavior, invert) for behavior in BEHAVIORS for invert in (False, True)]
    splits += [P.Split("the", behavior) for behavior in BEHAVIORS] + [P.Split("", "isolated")]
    splits += [P.Split(Regex(pattern), "isolated") for pattern in (CL100K, O200K, QWEN, TEKKEN, PHI4, HAN, "", "a*", "(?=[A-Z])", "$", r"\R", r"(?<=\s)\S")]
    pres = [plain(level(part)) for part in splits + [P.Digits(True), P.Digits(False), *(P.Punctuation(b) for b in BEHAVIORS), P.Whitespace(), P.WhitespaceSplit(),
                                                      P.BertPreTokenizer(), P.CharDelimiterSplit("b"), P.FixedLength(3)]]
    pres += [plain(P.Sequence([P.Punctuation("contiguous"), P.ByteLevel(add_prefix_space=False), P.Digits(False), P.Split(Regex("[0-9][0-9][0-9]"), "isolated")])),
             plain(P.Sequence([P.ByteLevel(add_prefix_space=True), P.ByteLevel(add_prefix_space=True, use_regex=False)]))]
    for scheme in ("always", "first", "never"):
        pres += [plain(level(P.Metaspace(MARK, scheme, split))) for split in (False, True)]
    changes = [{"pre_tokenizer": pre} for pre in pres]
    norms = [N.NFC(), N.NFD(), N.NFKC(), N.Strip(), N.Strip(True, False), N.Strip(False, True), N.Prepend(MARK), N.Replace("a", ""), N.Replace("", "-"),
             N.Replace(Regex(r"\s+"), " "), N.Replace(Regex("$"), "b"), N.ByteLevel(), N.Nmt(), N.StripAccents(),
             N.Sequence([N.NFKD(), N.StripAccents(), N.Lowercase()])]
    changes += [{"normalizer": plain(part), "pre_tokenizer": None if i == 11 else plain(level())} for i, part in enumerate(norms)]
    flags = [{}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}, {"single_word": True}, {"normalized": True}, {"special": True},
             {"single_word": True, "normalized": True, "lstrip": True}]
    for flag in flags:
        changes.append({"pre_tokenizer": plain(level()), "normalizer": plain(N.Lowercase()),
                        "added_tokens": [token("<s>", **flag), token("The", **flag), token("word", **flag), token("\n", **flag), token("  ", **flag)]})
    changes.append({"pre_tokenizer": plain(level()), "normalizer": plain(N.Lowercase()), "added_tokens": [token("THE", normalized=True), token("HTTP")]})
    changes += [{"pre_tokenizer": None, "model": model} for model in ({"unk_token": "<unk>"}, {"unk_token": "<unk>", "fuse_unk": True}, {"unk_token": None})]
    changes += [{"pre_tokenizer": None, "decoder": plain(part)} for part in (
        D.BPEDecoder("b"), D.Metaspace(MARK, "never"), D.Sequence([D.Replace(Regex("[ab]+"), "-"), D.Fuse()]), D.Sequence([D.Replace("", "."), D.Fuse()]), D.Strip("a", 1, 0))]
    # ids twice, gaps, a NUL, and added tokens whose ids the vocabulary has or the file gets wrong
    vocab, _ = base()
    odd = {**vocab, "zz": 3, "yy": 9000, "\u0000": 8000, "a\u0000": 8001}
    changes.append({"pre_tokenizer": plain(level()), "model": {"vocab": odd, "merges": []},
                    "added_tokens": [token("<s>", special=True), token("zz"), token("y\u0000y"), token("new")]})
    result = []
    for change in changes:
        texts = texts_of(rng, 5) + ["The the word HTTP <s>", "a zz yy\u0000 y\u0000y a\u0000 new"]
        case = {"change": change, "cases": cases_of(tokenizer_of(change), texts)}
        if "\u0000" in change.get("model", {}).get("vocab", {}):
            for one in case["cases"]:  # of two tokens with one id chance shows one
                one["unsure"] = True
        result.append(case)
    return result


def patterns():
    """Patterns, texts, and the pieces that they match; or that Oniguruma refuses them."""
    rng = random.Random(22)
    atoms = ["a", "b", "ab", "1", "k", " ", r"\n", ".", r"\d", r"\s", r"\w", r"\S", r"\W", r"\h", r"\p{L}", r"\P{L}", r"\p{^N}", "[ab]", "[^a]", r"[^\s\p{L}]", "[a-c]", r"[^a-c\n]",
             "[[:alpha:]]", "[[:^space:]]", "[a-z&&[^b]]", "[^a[b]]", "[]a]", "[a-c-e]", "[--a]", "\u00e9", r"\R", "\u4e16", r"\b", r"\B", "^", "$", r"\A", r"\Z", r"\z", "(?=a)", "(?!a)", "(?<=a)",
             "(?<!b)", "(?<=ab|c)", r"\x41", r"\x{4e16}", r"\u00e9", r"\101", r"[\x41-C]", r"\O", r"\N", r"\-", r"\t", r"\cA", r"\e"]
    texts = ["a", "b", "c", "A", "B", "1", "2", " ", "\n", "\r\n", "\u00e9", "\u4e16", "\u00b2", "k", "\u212a", "-", "]", "\u2028", "\U0001f642"]

    def pattern(depth):
        kind = rng.random()
        if depth == 0 or kind < 0.4:
            result = rng.choice(atoms)
        elif kind < 0.6:
            result = "".join(pattern(depth - 1) for _ in range(rng.randint(1, 3)))
        elif kind < 0.75:
            result = "(?:" + "|".join(pattern(depth - 1) for _ in range(rng.randint(1, 3))) + ")"
        else:
            result = rng.choice(["(?=", "(?!", "(?>", "(", "(?i:", "(?m:", "(?<n>"]) + pattern(depth - 1) + ")"
        return result + (rng.choice(["*", "+", "?", "*?", "+?", "??", "*+", "++", "?+", "{2}", "{1,2}", "{2,}", "{1,2}?", "{,2}", "{1,2}+"]) if rng.random() < 0.4 else "")

    wanted = ["a{x", "a{,}", "a**", "a(?i)b|c", "(?i)'ll", "(?i)(?-i:a)b", "(?#c)a", "(?x-x:a)", "a)", "(a", "[a", "[]", "*a", "a|*b", r"a\Kb", r"(a)\1", r"(?~ab)", "(?(1)a|b)", r"\X", r"\p{Foo}",
              r"\p{Lu", "a{2}?", "a{2,1}", "^*", "(?=a)*", "[a-\\d]", "[\\w-z]", "[z-a]", "[[:foo:]]", "(?i:ss)", "(?i:\u00e9)", "(?<=a+)b", "\\", r"\x{110000}", "a{100001}", "(?:a*)*b", "(?:a|)*b",
              "(?:(?:a){100}){100}"]
    cases = []
    for one in wanted + [pattern(3) for _ in range(400)]:
        text = "".join(rng.choices(texts, k=rng.randint(0, 9)))
        try:
            split = P.Split(Regex(one), "removed", invert=True)
            ends = [0]
            for c in text:
                ends.append(ends[-1] + len(c.encode()))
            case = [one, text, [ends[at] for _, span in split.pre_tokenize_str(text) for at in span]]
        except Exception:
            case = [one, text, None]
        if len(one) < 60:
            cases.append(case)
    return cases


def configs():
    from transformers import AutoTokenizer
    rng = random.Random(23)
    vocab, merges = base()
    result = []
    texts = ["", "the of <new> <extra><extra> zz top  <s>", "</s>", "a<s>b </s>  c<unk>", " the The<s>"]
    while len(result) < 60:
        data = json.loads(Tokenizer(models.BPE(vocab=vocab, merges=merges)).to_str())
        data["pre_tokenizer"], data["normalizer"] = plain(level()), plain(N.Replace(" ", MARK)) if rng.random() < 0.5 else None
        data["added_tokens"] = [token("<unk>", special=True), {**token("<s>", special=True), "id": len(vocab)}, {**token("</s>", special=True), "id": len(vocab) + 1}]
        data["post_processor"] = odd_processor(rng)
        files = odd_config(rng, data)
        with tempfile.TemporaryDirectory() as where:
            for name, value in {"tokenizer.json": data, **files}.items():
                with open(f"{where}/{name}", "w") as file:
                    json.dump(value, file)
            try:
                with quiet():
                    tokenizer = AutoTokenizer.from_pretrained(where)
                    ids = [tokenizer(text).input_ids for text in texts]
            except Exception:
                continue
        files["tokenizer_config.json"]["model_max_length"] = 1e30  # which the test's parser can hold
        change = {key: data[key] for key in ("pre_tokenizer", "normalizer", "added_tokens", "post_processor")}
        result.append({"change": change, "files": files, "cases": [{"bytes": text.encode().hex(), "ids": i} for text, i in zip(texts, ids)]})
    return result


def write(name, head, cases):
    """One case to a line. The test's parser has no NUL in keys: it reads U+E0FF as one."""
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases).replace("\\u0000", "\\ue0ff")
    with open(f"{GOLDEN}/{name}", "w") as file:
        file.write("{" + "".join(f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))},\n" for key, value in head.items()) + '"cases":[\n' + lines + "\n]}\n")


def main():
    vocab, merges = base()
    model = json.loads(Tokenizer(models.BPE(vocab=vocab, merges=merges)).to_str())
    write("tokenizer_parts.json", {"base": model, "codes": over_codes()}, variants())
    write("tokenizer_regex.json", {}, patterns())
    write("tokenizer_configs.json", {}, configs())


if __name__ == "__main__":
    main()
