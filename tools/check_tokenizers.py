#!/usr/bin/env python3
"""Compares ids and texts with those of Hugging Face's tokenizers package.

    python3 tools/check_tokenizers.py BUILD [--megabytes N] [--odd N] [--seed N] [KIND...]

BUILD is a folder in which make tests has built libexamples.a and liboffload.a.
For each kind of tokenizer that people have, a small one is trained with the normalizer,
pre-tokenizer, decoder and added tokens of that family, and N megabytes (10) of mixed text
are encoded by both sides: code, scripts, numbers, markup, added tokens, new and unassigned
characters, odd white space. A table says what is equal, and how fast both are, by
processor time. Then --odd files (300) with parts put together at random, over short texts, and
what transformers, where it is there, makes of tokenizer_config.json. Exit status 1: a
difference, which is printed.

Needs tokenizers (0.23.3, from https://pypi.org) and a C compiler. No model and no data
is fetched.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ["RUST_BACKTRACE"] = "0"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

MARK = "\u2581"
P, N, D = pre_tokenizers, normalizers, decoders
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = CL100K.replace("{1,3}", "")
PHI4 = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
        r"|\s+(?!\S)|\s+")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
TEKKEN = O200K.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}")
HAN = (r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
       r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}&&[^\p{Han}]]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(*before, regex=False):
    return P.Sequence([*before, P.ByteLevel(add_prefix_space=False, use_regex=regex)])


def isolated(pattern):
    return P.Split(Regex(pattern), "isolated")


CHAT = [AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True), AddedToken("<think>", normalized=False),
        AddedToken("</think>", normalized=False)]
LLAMA2_NORMALIZER = N.Sequence([N.Prepend(MARK), N.Replace(" ", MARK)])
LLAMA2_DECODER = D.Sequence([D.Replace(MARK, " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
# name: (normalizer, pre-tokenizer, decoder, added tokens, options of the model)
KINDS = {
    "llama-2, mixtral": (LLAMA2_NORMALIZER, None, LLAMA2_DECODER, [], {"fallback": True}),
    "mistral": (None, P.Metaspace(prepend_scheme="first", split=False), LLAMA2_DECODER,
                [AddedToken("[INST]", special=True), AddedToken("[/INST]", special=True)], {"fallback": True}),
    "mistral-nemo": (None, byte_level(isolated(TEKKEN)), D.ByteLevel(), [AddedToken("[INST]", special=True)],
                     {"ignore_merges": True}),
    "llama-3": (None, byte_level(isolated(CL100K)), D.ByteLevel(), CHAT, {"ignore_merges": True}),
    "qwen2, qwen3": (N.NFC(), byte_level(isolated(QWEN)), D.ByteLevel(), CHAT, {}),
    "phi-3": (LLAMA2_NORMALIZER, None, LLAMA2_DECODER,
              [AddedToken("<|user|>", special=True, rstrip=True), AddedToken("<|end|>", special=True, rstrip=True)],
              {"fallback": True}),
    "phi-4": (None, byte_level(isolated(PHI4)), D.ByteLevel(),
              [AddedToken("<|im_start|>", special=True, lstrip=True, rstrip=True)], {}),
    "gemma": (N.Replace(" ", MARK), P.Split(" ", "merged_with_previous"),
              D.Sequence([D.Replace(MARK, " "), D.ByteFallback(), D.Fuse()]),
              [AddedToken("\n\n", normalized=False), AddedToken("\n\n\n", normalized=False), AddedToken("<h1>", normalized=False)],
              {"fallback": True}),
    "olmo-2": (None, byte_level(isolated(CL100K)), D.ByteLevel(), [AddedToken("|||IP_ADDRESS|||", normalized=True)], {}),
    "olmoe": (N.NFC(), P.ByteLevel(add_prefix_space=False), D.ByteLevel(),
              [AddedToken(" " * n, normalized=True) for n in (8, 4, 2)], {}),
    "smollm": (None, byte_level(P.Digits(individual_digits=True), regex=True), D.ByteLevel(), CHAT, {}),
    "smollm3": (None, byte_level(isolated(CL100K)), D.ByteLevel(), CHAT, {"ignore_merges": True}),
    "granite": (None, byte_level(P.Digits(individual_digits=True), regex=True), D.ByteLevel(),
                [AddedToken("<fim_prefix>", special=True)], {}),
    "gpt-oss": (None, byte_level(isolated(O200K)), D.ByteLevel(), [AddedToken("<|channel|>", special=True)],
                {"ignore_merges": True}),
    "falcon-3": (None, P.Sequence([P.Punctuation("contiguous"), P.ByteLevel(add_prefix_space=False),
                                   P.Digits(individual_digits=False), isolated("[0-9][0-9][0-9]")]), D.ByteLevel(), [], {}),
    "deepseek": (None, byte_level(isolated(r"\p{N}{1,3}"), isolated("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), isolated(
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")), D.ByteLevel(), CHAT, {}),
    "intersections": (None, byte_level(isolated(HAN)), D.ByteLevel(), [], {}),
    "words": (N.Sequence([N.NFKC(), N.Lowercase()]), P.Whitespace(), D.BPEDecoder(), [], {"fallback": True}),
}

SCRIPTS = ["the of and to in is that it was for on are with as his they be at one have this from or had by hot word but what",
           "\u0438 \u0432 \u043d\u0435 \u043d\u0430 \u044f \u0431\u044b\u0442\u044c \u043e\u043d \u0441 \u0447\u0442\u043e \u0430 \u043f\u043e \u044d\u0442\u043e \u043e\u043d\u0430 \u042d\u0442\u043e\u0442 \u041a",
           "\u7684\u4e00\u662f\u4e0d\u4e86\u5728\u4eba\u6709\u6211\u4ed6\u8fd9 \u4e2d\u5927\u6765\u4e0a\u56fd\u4e2a \u5230\u8bf4\u4eec \u3002 \uff0c \u4e3a\u5b50\u548c",
           "\u3053\u308c\u306f\u30c6\u30b9\u30c8\u3067\u3059 \u65e5\u672c\u8a9e \u306e \u30fb \u30ab\u30bf\u30ab\u30ca\u30fc \u3001 \u3072\u3089\u304c\u306a",
           "\ud55c\uad6d\uc5b4 \uc774\uac83\uc740 \uc2dc\ud5d8 \u1112\u1161\u11ab \uac00\u11a8 \u1100\u1161",
           "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0641\u064a \u0645\u0646 \u0639\u0644\u0649 \u0643\u062a\u0627\u0628 \u0663\u0664\u0665 \u060c \u0640",
           "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902 \u0915\u093e \u0967\u0968\u0969 \u0964 \u0958 \u0915\u093c",
           "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 \u0e17\u0e35\u0e48 \u0e40\u0e1b\u0e47\u0e19 \u0e51\u0e52", "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d1\u05e8\u05d9\u05ea \u05e9\u05bc\u05c1",
           "na\u00efve caf\u00e9 gr\u00fc\u00df cafe\u0301 A\u030a \u1e9b\u0323 Stra\u00dfe \u0130stanbul \u0131 \u01c5 \u017fo \u0149 \ufb01 \u212b \u1ec7",
           "\u03ba\u03b1\u03b9 \u03c4\u03bf \u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2 \u1fb3 \u0345 \u1f00\u0301", "\u1797\u17b6\u179f\u17b6 \u0ba4\u0bae\u0bbf\u0bb4\u0bcd \u10e5\u10d0\u10e0\u10d7 \u0531\u0580\u0574"]
SIGNS = ["\U0001f642", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd", "\u2460\u2461", "\u2167", "\u00bd", "\u00b2", "\u20ac", "\u00a7",
         "\u2014", "\u2026", "\u2019s", "\ufeff", "\u200b", "\u00a0", "\u3000", "\u2028", "\u0085", "\u180e", "\u1680", "\x0b", "\x0c", "\x00", "\x1f",
         "\x7f", "\ufffd", MARK, "\u0301\u0327", "\u0327\u0301", "\U0002ebf0", "\U0002ebf1\u4e16", "\U00031350", "\U000323b0", "\u0897", "\u1c89\u1c8a",
         "\U00010d40\U00010d41", "\ua7cb\ua7da", "\U000105c0\U000105c9", "\U00016121", "\U0001cc00", "\U0001fae9", "\U00011f00", "\U0001e4d0", "\U0001fae8",
         "\U00011de0", "\u0558", "\u0378", "\U000e0001", "\ue000", "\U0010ffff", "\u11a8", "\u0344", "\u0f73", "\u1d15e", "\U0001d15e", "\u2adc", "\u32ff",
         "\ua7f2", "\uab69", "\U00010781", "\U00011938", "\U00011935\U00011930", "\u0958", "\u2126", "\uff76\uff9e", "\u3131", "\uffa1", "\ufdfa"]
CODE = ["def f(self, x=0):\n    return x ** 2  # t\n", "\tif (a[i] != NULL && b->c >= 0x1F) {\n\t\tn++;\n\t}\n", "for(;;){}\n", "SELECT * FROM t WHERE id=42;\n",
        "<div class=\"a b\"><p>x &amp; y</p></div>\n", "## Title\n\n- item *one*\n- [x](http://a.b/c?d=e)\n\n```\nls -la\n```\n", "{\"k\": [1, 2.5e-3, null]}\n",
        "I'll, we've, DON'T, he's, 'tis 'S 'lls\n", "camelCaseWord SCREAMING_SNAKE HTTPServer2Go iPhone15Pro\n", "\\frac{a}{b} $x_i^2$ \\\\\n",
        "...!!!???---===___~~~\n", "\r\n\r\n  \r\n", "        \n    x\n", "\t\t \t\n", "   \u3000\u00a0  \n", "#include <stdio.h>\n", "a@b.co +49 (0)30 123-456\n"]
ADDED = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "  <|im_start|>  ", "<think>", "</think>", "[INST]", " [/INST] ", "<|user|>\n", "<|end|>  \n",
         "\n\n\n", "<h1>", "|||IP_ADDRESS|||", "<fim_prefix>", "<|channel|>", "<|im_start", "<0x41>", "<0xE2>", "word", " wordy ", "_word", "word\u0301"]


def mixed_text(rng, size):
    """Text of about so many bytes, of all kinds, in stretches of one kind."""
    parts, total = [], 0
    while total < size:
        kind = rng.random()
        if kind < 0.45:
            words = rng.choice(SCRIPTS).split(" ")
            part = rng.choice([" ", " ", " ", "  ", ""]).join(rng.choices(words, k=rng.randint(3, 40)))
            if rng.random() < 0.2:
                part = part.upper() if rng.random() < 0.5 else part.title()
        elif kind < 0.65:
            part = "".join(rng.choices(CODE, k=rng.randint(1, 4)))
        elif kind < 0.75:
            part = " ".join(str(rng.randrange(10 ** rng.randint(1, 12))) for _ in range(rng.randint(1, 8)))
        elif kind < 0.82:
            part = "".join(rng.choices(SIGNS, k=rng.randint(1, 6)))
        elif kind < 0.88:
            part = "".join(rng.choices(ADDED, k=rng.randint(1, 3)))
        elif kind < 0.91:
            codes = [rng.randrange(0x110000) for _ in range(rng.randint(1, 8))]
            part = "".join(chr(c) for c in codes if not 0xD800 <= c < 0xE000)
        elif kind < 0.94:
            part = "".join(chr(rng.randrange(0x3000)) for _ in range(rng.randint(1, 20)))
        else:
            part = rng.choice(["\n", " ", "\t", "\n\n", "  ", ". ", ", ", "x" * rng.randint(1, 60), " " * rng.randint(1, 60)])
        parts.append(part + rng.choice(["", " ", " ", "\n"]))
        total += len(parts[-1].encode())
    return "".join(parts)


def train(kind, sample):
    normalizer, pre, decoder, added, options = KINDS[kind]
    fallback = options.get("fallback", False)
    special = ["<unk>", "<s>", "</s>"] + ([f"<0x{byte:02X}>" for byte in range(256)] if fallback else [])
    model = models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True) if fallback else models.BPE()
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre is not None:
        tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoder
    lines = sample.splitlines(keepends=True)
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=3000, show_progress=False, special_tokens=special, max_token_length=20, limit_alphabet=1000,
        initial_alphabet=[] if fallback else P.ByteLevel.alphabet()))
    tokenizer.add_tokens(added)
    data = json.loads(tokenizer.to_str())
    if options.get("ignore_merges"):  # tokens that merges do not reach are what it is for
        data["model"]["ignore_merges"] = True
        used = {part for merge in data["model"]["merges"] for part in merge}
        rng = random.Random(1)
        data["model"]["merges"] = [m for m in data["model"]["merges"] if "".join(m) in used or rng.random() < 0.7]
    return data


class Ours:
    """The C side, one process to a file."""

    def __init__(self, program, path):
        self.program, self.path = program, path

    def ask(self, records):
        """[ids or bytes or None], and the seconds of opening and encoding; or why not."""
        data = b"".join(kind + len(item).to_bytes(4, "little") +
                        (item if kind in b"ew" else b"".join(i.to_bytes(4, "little") for i in item))
                        for kind, item in records)
        run = subprocess.run([self.program, self.path], input=data, capture_output=True)
        said = run.stderr.decode(errors="replace").strip()
        if run.returncode == 2:
            return None, said
        if run.returncode:
            raise SystemExit(f"tokens {self.path}: exit status {run.returncode}\n{said}")
        out, at, answers = run.stdout, 0, []
        for kind, _ in records:
            count = int.from_bytes(out[at:at + 4], "little")
            at += 4
            if count == 2 ** 32 - 1:
                answers.append(None)
                continue
            each = 4 if kind in b"ew" else 1
            answers.append(list(memoryview(out[at:at + count * 4]).cast("I")) if each == 4 else out[at:at + count])
            at += count * each
        return answers, tuple(map(float, said.split()))


def first_difference(ours, theirs):
    at = next((i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), min(len(ours), len(theirs)))
    return f"at {at} ours {ours[max(0, at - 2):at + 4]}, theirs {theirs[max(0, at - 2):at + 4]}"


def compare(tokenizer, ours, texts):
    """Differences in ids and texts; tokens, and seconds of each side."""
    start = time.process_time()
    theirs = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    seconds = time.process_time() - start
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    records = [(b"e", text.encode()) for text in texts] + [(b"d", ids) for ids in theirs] + [(b"s", ids) for ids in theirs]
    answers, times = ours.ask(records)
    if answers is None:
        return [times], 0, 0, 0
    faults = []
    for text, ids, mine in zip(texts, theirs, answers):
        if mine != ids:
            faults.append(f"ids of {ascii(text[:60])}...: " + ("it fails" if mine is None else first_difference(mine, ids)))
    for i, ids in enumerate(theirs):
        plain = [token for token in ids if token not in special]
        for name, want, mine in (("text", ids, answers[len(texts) + i]), ("text without special tokens", plain, answers[2 * len(texts) + i])):
            want = tokenizer.decode(want, skip_special_tokens=False).encode() if want else b""
            if mine != want:
                faults.append(f"{name} of {ascii(texts[i][:60])}...: " + first_difference(mine, want))
    return faults, sum(map(len, theirs)), seconds, times[1]


def check_kinds(program, folder, kinds, megabytes, seed):
    rng = random.Random(seed)
    sample = mixed_text(rng, 400_000)
    texts = [mixed_text(rng, 50_000) for _ in range(int(megabytes * 19))] + [mixed_text(rng, int(megabytes * 50_000))]
    texts += ["a" * 20_000, " " * 20_000, "\u4e16" * 20_000, "\u0301" * 20_000, "'" * 5_000, "A" * 20_000, "\n" * 20_000, "7" * 20_000]
    size = sum(len(text.encode()) for text in texts)
    print(f"{size / 1e6:.1f} MB of text, tokenizers {tokenizers.__version__}")
    print(f"{'kind':<18} {'tokens':>9} {'equal':>6} {'MB/s':>7} {'theirs':>7}  (of processor time)")
    failed = 0
    for kind in kinds:
        path = f"{folder}/tokenizer.json"
        with open(path, "w") as file:
            json.dump(train(kind, sample), file)
        tokenizer = Tokenizer.from_file(path)
        faults, tokens, theirs, ours = compare(tokenizer, Ours(program, path), texts)
        failed += bool(faults)
        print(f"{kind:<18} {tokens:>9} {'no' if faults else 'yes':>6} {size / 1e6 / ours if ours else 0:>7.1f} "
              f"{size / 1e6 / theirs if theirs else 0:>7.1f}", flush=True)
        for fault in faults[:3]:
            print("    " + fault)
    return failed


PATTERNS = [CL100K, O200K, QWEN, r"\s+", r"\w+", r"\d", r"[aeiou]", r"\p{Lu}", "", r"a*", r"(?=[A-Z])", r"\b", r"[^\s\w]+", r"\p{Han}+|\p{Hangul}",
            r"(?<=\s)\S", r"[[:punct:]]", r"\R", r".", r"^", r"$", r"(?i:the|in)", r"\p{M}+", r"x|\s*\n"]
BEHAVIORS = ["removed", "isolated", "contiguous", "merged_with_previous", "merged_with_next"]


def odd_file(rng, data):
    """A file whose parts are put together at random."""
    pick = rng.choice
    forms = [N.NFC(), N.NFD(), N.NFKC(), N.NFKD(), N.Lowercase(), N.StripAccents(), N.Nmt(), N.Strip(True, False), N.Strip(False, True), N.Strip(),
             N.Prepend(MARK), N.Prepend("ab"), N.Replace(" ", MARK), N.Replace("a", ""), N.Replace(Regex(pick(PATTERNS)), pick(["", "-", "xy"])),
             N.Replace("", "."), N.ByteLevel()]

    def cut():
        return pick([lambda: P.Split(Regex(pick(PATTERNS)), pick(BEHAVIORS), invert=rng.random() < 0.3),
                     lambda: P.Split(pick(["a", " ", "the", MARK, ".", ""]), pick(BEHAVIORS), invert=rng.random() < 0.3),
                     lambda: P.Digits(rng.random() < 0.5), lambda: P.Punctuation(pick(BEHAVIORS)), lambda: P.Whitespace(), lambda: P.WhitespaceSplit(),
                     lambda: P.BertPreTokenizer(), lambda: P.CharDelimiterSplit(pick("a.\u4e00")), lambda: P.FixedLength(rng.randint(1, 9)),
                     lambda: P.ByteLevel(rng.random() < 0.5, use_regex=rng.random() < 0.5),
                     lambda: P.Metaspace(pick([MARK, "_"]), pick(["always", "never", "first"]), rng.random() < 0.5)])()

    tokenizer = Tokenizer.from_str(json.dumps(data))
    steps = rng.choices(forms, k=rng.choice([0, 0, 1, 1, 2, 3]))
    cuts = [cut() for _ in range(rng.choice([0, 1, 1, 2, 3]))]
    tokenizer.normalizer = N.Sequence(steps)
    tokenizer.pre_tokenizer = P.Sequence(cuts)
    tokenizer.decoder = pick([D.ByteLevel(), LLAMA2_DECODER, D.Metaspace(), D.Fuse(), D.BPEDecoder("a"),
                              D.Sequence([D.Replace(Regex(pick(PATTERNS[3:8])), "-"), D.Fuse()])])
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = []
    words = ["the", "THE", "  ", "<s>", "</s>", "word", "\n", "of and", "\u4e00", "\u00e9", "e\u0301", "\u0130", "'", "42", "(", "[INST]", "<think>", "is", "<|end|>", "a"]
    normal = set()
    for content in rng.sample(words, rng.randint(0, 8)):
        try:  # of two that normalize alike chance takes one
            with quiet():
                text = tokenizer.normalizer.normalize_str(content)
        except BaseException:
            continue
        if text in normal:
            continue
        normal.add(text)
        data["added_tokens"].append({"id": rng.randrange(4000), "content": content, **{
            flag: rng.random() < 0.35 for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")}})
    model = data["model"]
    model["ignore_merges"], model["fuse_unk"] = rng.random() < 0.3, rng.random() < 0.5
    if rng.random() < 0.3:
        model["byte_fallback"] = not model["byte_fallback"]
    if rng.random() < 0.3:
        model["unk_token"] = pick([None, "<unk>", "a"])
    if rng.random() < 0.3:  # gaps in the ids, one twice, and a token with a NUL
        model["vocab"] = {token: number * 2 for token, number in model["vocab"].items()}
        model["vocab"]["zzz\u0000"] = 10 ** 6
        model["vocab"]["zzy"] = 0
    return data


@contextlib.contextmanager
def quiet():
    """What Rust says of its panics goes nowhere."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def check_odd(program, folder, count, seed):
    rng = random.Random(seed + 1)
    bases = [train(kind, mixed_text(rng, 100_000)) for kind in ("llama-2, mixtral", "llama-3")]
    failed, same, refused, neither = 0, 0, {}, 0
    for number in range(count):
        data = odd_file(rng, rng.choice(bases))
        path = f"{folder}/tokenizer.json"
        with open(path, "w") as file:
            json.dump(data, file)
        texts = [mixed_text(rng, rng.choice([20, 200, 2000])) for _ in range(20)] + ["", " ", "a", "the", MARK]
        ours = Ours(program, path)
        try:
            with quiet():
                tokenizer = Tokenizer.from_file(path)
                theirs = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        except BaseException as error:  # also what its Rust panics at
            if isinstance(error, KeyboardInterrupt):
                raise
            neither += 1
            continue
        special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        answers, said = ours.ask([(b"e", text.encode()) for text in texts] + [(b"s", ids) for ids in theirs])
        if answers is None:
            cause = said.split(": ", 2)[-1]
            refused[cause] = refused.get(cause, 0) + 1
            continue
        fault = None
        for i, ids in enumerate(theirs):
            if answers[i] != ids:
                fault = f"ids of {ascii(texts[i][:80])}: {answers[i] and first_difference(answers[i], ids)}"
                break
            plain = [token for token in ids if token not in special]
            want = tokenizer.decode(plain, skip_special_tokens=False).encode() if plain else b""
            if answers[len(texts) + i] != want and model_is_plain(data):
                fault = f"text of {ascii(texts[i][:80])}: {answers[len(texts) + i]!r:.120} {want!r:.120}"
                break
        failed += fault is not None
        same += fault is None
        if fault:
            keep = os.path.join(tempfile.gettempdir(), f"tokenizer-odd-{seed}-{number}.json")
            os.replace(path, keep)
            print(f"    odd file {number}, kept as {keep}: {fault}")
    print(f"odd files: {same} equal, {failed} differ, {sum(refused.values())} refused, {neither} that tokenizers fails at")
    for cause, times in sorted(refused.items(), key=lambda item: -item[1]):
        print(f"    refused {times}: {cause}")
    return failed


def model_is_plain(data):
    """Whether no two tokens share an id: which of them is shown is chance there."""
    return len(set(data["model"]["vocab"].values())) == len(data["model"]["vocab"])


def odd_config(rng, data):
    """A tokenizer_config.json, and files beside it, of a directory of that tokenizer."""
    contents = [token["content"] for token in data["added_tokens"]] + ["<new>", "the", "of", "<extra>", "zz top"]

    def token(content, kind=True):
        flags = {flag: rng.random() < 0.3 for flag in ("lstrip", "rstrip", "single_word", "normalized", "special")}
        return {"content": content, **flags, **({"__type": "AddedToken"} if kind else {})}

    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 10 ** 30, "clean_up_tokenization_spaces": False,
              "add_bos_token": rng.random() < 0.5}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "image_token"):
        if rng.random() < 0.5:
            content = rng.choice(contents)
            config[name] = content if rng.random() < 0.6 or name == "image_token" else token(content)
    if rng.random() < 0.3:
        config[rng.choice(["extra_special_tokens", "additional_special_tokens"])] = rng.sample(contents, 2)
    if rng.random() < 0.2:
        config["split_special_tokens"] = True
    files = {"tokenizer_config.json": config}
    if rng.random() < 0.6:
        ids = {t["content"]: t["id"] for t in data["added_tokens"]}
        config["added_tokens_decoder"] = {str(ids.get(c, 5000 + i)): token(c, False)
                                          for i, c in enumerate(rng.sample(contents, rng.randint(0, len(contents))))}
    else:
        if rng.random() < 0.5:
            special = {name: rng.choice(contents) for name in ("bos_token", "eos_token") if rng.random() < 0.7}
            files["special_tokens_map.json"] = {name: content if rng.random() < 0.5 else {**token(content, False)} for name, content in special.items()}
        if rng.random() < 0.4:
            files["added_tokens.json"] = {content: 5000 + i for i, content in enumerate(rng.sample(contents, 2))}
    return files


def odd_processor(rng):
    tokens = {name: {"id": name, "ids": [rng.randrange(3000) for _ in range(rng.choice([1, 1, 2]))], "tokens": [name] * 2} for name in ("<b>", "<e>")}
    for value in tokens.values():
        value["tokens"] = value["tokens"][:len(value["ids"])]
    text, b, e = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<b>", "type_id": 0}}, {"SpecialToken": {"id": "<e>", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": rng.choice([[b, text], [b, text, e], [text, e], [text], [b, b, text]]),
                "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": tokens}
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    pair = {"sep": ["</s>", rng.randrange(3000)], "cls": ["<s>", rng.randrange(3000)]}
    return rng.choice([None, template, level, {"type": "Sequence", "processors": [level, template]}, {"type": "Sequence", "processors": [template, level]},
                       {"type": "RobertaProcessing", **pair, "trim_offsets": True, "add_prefix_space": False}, {"type": "BertProcessing", **pair}])


def check_configs(program, folder, count, seed):
    """What transformers makes of the files beside tokenizer.json."""
    try:
        os.environ["HF_HUB_OFFLINE"] = "1"
        import transformers
        from transformers import AutoTokenizer
        transformers.logging.set_verbosity_error()
    except ImportError:
        print("configs: transformers is not there")
        return 0
    rng = random.Random(seed + 2)
    base = train("llama-2, mixtral", mixed_text(rng, 100_000)), train("qwen2, qwen3", mixed_text(rng, 100_000))
    failed = neither = 0
    for number in range(count):
        data = json.loads(json.dumps(rng.choice(base)))
        data["post_processor"] = odd_processor(rng)
        if rng.random() < 0.3:
            del data["added_tokens"][-1]
        where = tempfile.mkdtemp(dir=folder)
        for name, value in {"tokenizer.json": data, **odd_config(rng, data)}.items():
            with open(f"{where}/{name}", "w") as file:
                json.dump(value, file)
        texts = ["", "the of <new> <extra><extra> zz top  <s>", "</s>", "a<s>b </s>  c<unk>"] + [mixed_text(rng, 300) for _ in range(6)]
        try:
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(where)
                theirs = [tokenizer(text).input_ids for text in texts]
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            neither += 1
            continue
        answers, said = Ours(program, f"{where}/tokenizer.json").ask([(b"w", text.encode()) for text in texts])
        fault = said if answers is None else next((f"{ascii(texts[i][:60])}: {answers[i] and first_difference(answers[i], ids)}"
                                                   for i, ids in enumerate(theirs) if answers[i] != ids), None)
        if fault:
            failed += 1
            keep = os.path.join(tempfile.gettempdir(), f"tokenizer-config-{seed}-{number}")
            os.rename(where, keep)
            print(f"    config {number}, kept as {keep}: {fault}")
    print(f"configs, with transformers {transformers.__version__}: {count - failed - neither} equal, {failed} differ, {neither} that it fails at")
    return failed


def build(folder, out):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    program = f"{out}/tokens"
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-std=c11", "-D_GNU_SOURCE", f"-I{root}", "-o", program, f"{root}/tools/tokens.c",
                    f"{folder}/libexamples.a", f"{folder}/liboffload.a", "-luring", "-lhwloc", "-lxxhash", "-lopenblas", "-ljansson", "-lnuma", "-lm",
                    "-lpthread"], check=True)
    return program


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("build")
    parser.add_argument("kind", nargs="*")
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--odd", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if not options.kind or any(name in kind for name in options.kind)]
    with tempfile.TemporaryDirectory() as folder:
        program = build(options.build, folder)
        failed = check_kinds(program, folder, kinds, options.megabytes, options.seed) if options.megabytes else 0
        failed += check_odd(program, folder, options.odd, options.seed) if options.odd else 0
        failed += check_configs(program, folder, options.odd, options.seed) if options.odd else 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
