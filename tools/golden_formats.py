#!/usr/bin/env python3
"""Prints the table of tests/test_landing.c: what the reference implementations unpack from blocks made by a formula.

    python3 tools/golden_formats.py

Needs numpy and gguf. Byte i of a format's blocks are the topmost 8 bits of mix(i), the finaliser of SplitMix64; in the
scales (F16) bit 14 is cleared, so that all values are finite. What is printed is, over 2^20 values, the sum of
(2 i + 1) times the bits of value i as F32, modulo 2^64; and the first four values.
"""

import importlib.metadata
import re
import sys

import gguf
import numpy as np

VALUES = 1 << 20
# where the F16 numbers of a block are
SCALES = {"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
          "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,), "MXFP4": ()}


def made(count):
    x = np.arange(count, dtype=np.uint64)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return ((x ^ x >> np.uint64(31)) >> np.uint64(56)).astype(np.uint8)


def digest(values):
    bits = values.view(np.uint32).astype(np.uint64)
    return int((bits * (2 * np.arange(len(bits), dtype=np.uint64) + np.uint64(1))).sum(dtype=np.uint64))


def hexadecimal(value):
    return re.sub(r"\.?0*p", "p", float(value).hex()) + "f"


def main():
    print(f"    /* tools/golden_formats.py, gguf {importlib.metadata.version('gguf')} */")
    for name, scales in SCALES.items():
        kind = gguf.GGMLQuantizationType[name]
        elems, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = made(VALUES // elems * size).reshape(-1, size)
        for at in scales:
            blocks[:, at + 1] &= 0xBF
        values = gguf.dequantize(blocks, kind).reshape(-1)
        first = ", ".join(hexadecimal(v) for v in values[:4])
        print(f"    {{OFL_{name}, {{{', '.join(map(str, scales or (-1, -1)))}{', -1' if len(scales) == 1 else ''}}},"
              f" 0x{digest(values):016x}u, {{{first}}}}},")


if __name__ == "__main__":
    sys.exit(main())
