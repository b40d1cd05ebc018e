#!/usr/bin/env python3
"""Makes examples/model/tokenizer_classes.c and tokenizer_forms.c: what the parts of
Hugging Face's tokenizers package hold to be a letter, a digit, a lower-case form or
a decomposition. They follow different versions of Unicode (its regular expressions
16, Rust's own characters 17, its normalization 9, its punctuation 8), so
nearly all of it is asked of the package itself, and the rest is compared with it.

    python3 tools/unicode_tables.py

run from the root of the repository, with tokenizers 0.23.3, unicodedata2 16.0.0
and regex (names of scripts alone) from https://pypi.org.
"""

import itertools

import regex._regex_core
import tokenizers
import unicodedata2
from tokenizers import Regex, normalizers, pre_tokenizers

CODES = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
ALL = "".join(map(chr, CODES))
CATEGORIES = "Cc Cf Cn Co Cs Ll Lm Lo Lt Lu Mc Me Mn Nd Nl No Pc Pd Pe Pf Pi Po Ps Sc Sk Sm So Zl Zp Zs".split()
HANGUL = range(0xAC00, 0xD7A4)


def matched(pattern):
    """The code points of which a pattern of one character takes any."""
    split = pre_tokenizers.Split(Regex(f"(?:{pattern})+"), "removed", invert=True)
    return {ord(c) for piece, _ in split.pre_tokenize_str(ALL) for c in piece}


def category(*names):
    return {code for code in CODES if unicodedata2.category(chr(code)).startswith(names)}


def ranges(codes):
    """[from, to, from, to, ...]"""
    result = []
    for code in sorted(codes):
        if result and result[-1] == code - 1:
            result[-1] = code
        else:
            result += [code, code]
    return result


def runs(values, shift):
    """Where each run of a value starts, and the value."""
    return [start << shift | value for start, value in
            ((next(group)[0], value) for value, group in itertools.groupby(enumerate(values), lambda pair: pair[1]))]


def array(name, numbers, kind="uint32_t"):
    lines, line = [], "   "
    for number in numbers:
        word = f" {number},"
        if len(line) + len(word) > 110:
            lines.append(line)
            line = "   "
        line += word
    lines.append(line)
    return (f"const {kind} {name}[] = {{\n" + "\n".join(lines) + "\n};\n"
            f"const size_t {name}_count = sizeof {name} / sizeof *{name};\n")


def write(name, says, parts):
    head = (f"/*\n * {says}\n *\n * Made by tools/unicode_tables.py from tokenizers {tokenizers.__version__} and unicodedata2 "
            f"{unicodedata2.unidata_version}: not edited by hand.\n */\n"
            "#include \"examples/model/tokenizer_tables.h\"\n\n/* clang-format off */\n")
    with open(f"examples/model/{name}", "w") as file:
        file.write(head + "\n".join(parts))


def scripts():
    """Names as Oniguruma takes them, and the script of each code point; 0: unknown."""
    known = {}
    for name, number in regex._regex_core.PROPERTIES["SCRIPT"][1].items():
        known.setdefault(number, []).append(name.lower())
    values, names, index = [0] * 0x110000, [], 0
    for number in sorted(known, key=lambda number: max(known[number], key=len)):
        try:
            Regex(rf"\p{{{known[number][0]}}}")
            codes = matched(rf"\p{{{known[number][0]}}}")
        except Exception:
            continue
        if min(known[number], key=len) in ("zzzz", "unknown"):
            continue
        index += 1
        for code in codes:
            assert values[code] == 0
            values[code] = index
        names += [(name, index) for name in known[number]]
    return values, sorted(names)


def classes():
    for name in CATEGORIES:
        assert name == "Cs" or matched(rf"\p{{{name}}}") == category(name), name
    letters, marks = matched(r"\p{Alphabetic}"), category("M")
    upper, lower = matched(r"\p{Uppercase}"), matched(r"\p{Lowercase}")
    assert matched("[[:word:]]") == letters | marks | category("Nd", "Pc") == matched(r"[\w]")
    assert matched(r"\w") - matched(r"[\w]") == {0xB2, 0xB3, 0xB9, 0xBC, 0xBD, 0xBE}
    assert letters >= category("L", "Nl") and upper >= category("Lu") and lower >= category("Ll") - {0x295}
    whitespace = pre_tokenizers.Whitespace()
    rust_word = {code for code in CODES if len(whitespace.pre_tokenize_str(f"a{chr(code)}a")) == 1}
    assert rust_word == letters | marks | category("Nd", "Pc") | {0x200C, 0x200D}
    digits, points = pre_tokenizers.Digits(True), pre_tokenizers.Punctuation("isolated")
    numeric = {code for code in CODES if len(digits.pre_tokenize_str(f"a{chr(code)}a")) == 3}
    assert numeric >= category("N")
    punctuation = {code for code in CODES if len(points.pre_tokenize_str(f"a{chr(code)}a")) == 3}
    number_of = {name: number for number, name in enumerate(CATEGORIES)}
    values, names = scripts()
    write("tokenizer_classes.c", "Characters by category, script and kind.", [
        array("uni_categories", runs((number_of[unicodedata2.category(chr(code))] for code in range(0x110000)), 5)),
        array("uni_scripts", runs(values, 8)),
        "const struct uni_script uni_script_names[] = {\n" +
        "\n".join(f'    {{"{name}", {number}}},' for name, number in names) + "\n};\n"
        "const size_t uni_script_names_count = sizeof uni_script_names / sizeof *uni_script_names;\n",
        array("uni_other_alphabetic", ranges(letters - category("L", "Nl"))),
        array("uni_other_uppercase", ranges(upper - category("Lu"))),
        array("uni_other_lowercase", ranges(lower - category("Ll"))),
        array("uni_rust_numeric", ranges(numeric - category("N"))),
        array("uni_rust_punctuation", ranges(punctuation))])
    assert category("Ll") <= lower


def changes(map_of):
    """[from, to, step, target of from, ...] of code points that become another one."""
    result = []
    for code in CODES:
        text = map_of(chr(code))
        if len(text) != 1 or ord(text) == code:
            continue
        target = ord(text)
        if result and result[-1][3] - result[-1][0] == target - code:
            last = result[-1]
            step = code - last[1]
            if last[0] == last[1] and step <= 2 or step == last[2]:
                last[1], last[2] = code, step
                continue
        result.append([code, code, 1, target])
    return [number for entry in result for number in entry]


def forms():
    nfc, nfd = normalizers.NFC().normalize_str, normalizers.NFD().normalize_str
    nfkd, nfkc = normalizers.NFKD().normalize_str, normalizers.NFKC().normalize_str
    combining = {}
    for code in CODES:  # a mark trades places with one of a higher class before it
        rank = unicodedata2.combining(chr(code))
        if rank and (nfd(chr(0x345) + chr(code)) == chr(code) + chr(0x345) or code == 0x345):
            combining[code] = rank
    pairs, compat = [], []
    for code in CODES:
        text, full = chr(code), nfd(chr(code))
        if code in HANGUL or full == text and nfkd(text) == text:
            continue
        if full != text:
            parts = [int(part, 16) for part in unicodedata2.decomposition(text).split()]
            assert len(parts) <= 2 and nfd("".join(map(chr, parts))) == full
            composes = len(parts) == 2 and nfc(full) == text and combining.get(code, 0) == 0
            pairs += [code << 1 | composes, parts[0], parts[1] if len(parts) == 2 else 0]
        elif nfkd(text) != text:
            compat.append((code, list(map(ord, nfkd(text)))))
    starts = changes(lambda c: nfkd(c) if nfd(c) == c and ord(c) not in HANGUL else c)
    pool = []
    for code, parts in compat:
        if len(parts) > 1:
            pool += [code << 5 | len(parts), *parts]
    lower = normalizers.Lowercase().normalize_str
    assert [c for c in ALL if len(lower(c)) != 1] == ["\u0130"] and lower("\u0130") == "i\u0307"
    accents = {code for code in CODES if normalizers.StripAccents().normalize_str(chr(code)) == ""}
    values = [combining.get(code, 0) for code in range(0x110000)]
    write("tokenizer_forms.c", "Decompositions, combining classes and lower-case forms.", [
        array("uni_combining", runs(values, 8)), array("uni_pairs", pairs), array("uni_compat", starts),
        array("uni_compat_texts", pool), array("uni_lowercase", changes(lower)), array("uni_accents", ranges(accents))])
    assert nfkc("\ufb01") == "fi"


if __name__ == "__main__":
    classes()
    forms()
