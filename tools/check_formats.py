#!/usr/bin/env python3
"""What landing transforms give, beside the reference implementations: a table, exit 1 if a bit differs.

    tools/check_formats.py BUILD [VALUES]     BUILD: the folder with liboffload.so; VALUES of each, 2000000 by default

Random blocks (scales of all sizes, infinities and NaNs too) go through every form that this machine has, to F32, F16
and BF16. NaNs count as equal. Needs numpy and gguf (0.19.0 is what it was written against).
"""
import ctypes
import importlib.metadata
import pathlib
import re
import sys

import gguf
import numpy as np

FORMS = {"plain": 1, "avx2": 2, "avx512": 3, "avx512bf16": 4}
ENOTSUP = 95


class Landing(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("dtype", ctypes.c_int), ("to", ctypes.c_int), ("elems", ctypes.c_uint64),
                ("packed", ctypes.c_void_p), ("out", ctypes.c_void_p), ("form", ctypes.c_int)]


def dtypes():
    """Numbers of enum ofl_dtype, from the header."""
    text = (pathlib.Path(__file__).parent.parent / "include/offload.h").read_text()
    body = re.search(r"enum ofl_dtype \{(.*?)\}", text, re.S).group(1)
    names = re.findall(r"OFL_(\w+),?", re.sub(r"/\*.*?\*/", "", body, flags=re.S))
    return {name: number for number, name in enumerate(names)}


NUMBERS = dtypes()


def unpack(lib, name, form, to, packed, elems):
    """None: this machine does not have the form."""
    out = np.empty(elems, np.float32 if to == "F32" else np.uint16)
    landing = Landing(ctypes.sizeof(Landing), NUMBERS[name], NUMBERS[to], elems, packed.ctypes.data, out.ctypes.data,
                      FORMS[form])
    err = lib.ofl_landing_run(ctypes.byref(landing))
    if err == -ENOTSUP:
        return None
    if err:
        sys.exit(f"{name}: {lib.ofl_error().decode()}")
    return out


def to_bf16(values):
    bits = values.view(np.uint32)
    near = ((bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), near)


def differing(got, want, to):
    """How many values are not those wanted, to the bit."""
    if to == "F32":
        nan, same = np.isnan(got) & np.isnan(want), got.view(np.uint32) == want.view(np.uint32)
    elif to == "F16":
        with np.errstate(over="ignore", invalid="ignore"):
            half = want.astype(np.float16)
        nan, same = np.isnan(got.view(np.float16)) & np.isnan(half), got == half.view(np.uint16)
    else:
        nan, same = ((got & 0x7FFF) > 0x7F80) & np.isnan(want), got == to_bf16(want)
    return int((~(nan | same)).sum())


def gguf_blocks(name, values, rng):
    """Random blocks, and what gguf makes of them. Half of them have scales of a usual size."""
    kind = gguf.GGMLQuantizationType[name]
    elems, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (-(-values // elems), size), np.uint8)
    usual = slice(0, len(blocks) // 2)
    scales = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2),
              "Q5_K": (0, 2), "MXFP4": ()}.get(name, (0,))
    for at in scales:
        blocks[usual, at:at + 2] = rng.normal(0, 0.02, (len(blocks[usual]), 1)).astype(np.float16).view(np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        return blocks, gguf.dequantize(blocks, kind).reshape(-1)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    lib = ctypes.CDLL(str(pathlib.Path(sys.argv[1], "liboffload.so").resolve()))
    lib.ofl_error.restype = ctypes.c_char_p
    values = int(sys.argv[2]) if len(sys.argv) > 2 else 2_000_000
    rng = np.random.default_rng(1)
    wrong = 0
    print(f"gguf {importlib.metadata.version('gguf')}, numpy {np.__version__}, {values} values of each: those that differ")
    print(f"{'dtype':8} {'to':5}" + "".join(f"{form:>11}" for form in FORMS))
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
                 "MXFP4"):
        packed, want = gguf_blocks(name, values, rng)
        for to in ("F32", "F16", "BF16"):
            cells = []
            for form in FORMS:
                got = unpack(lib, name, form, to, packed, want.size)
                count = None if got is None else differing(got, want, to)
                wrong += count or 0
                cells.append("-" if count is None else str(count))
            print(f"{name:8} {to:5}" + "".join(f"{cell:>11}" for cell in cells))
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
