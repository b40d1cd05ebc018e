#!/usr/bin/env python3
"""What landing transforms give, beside the reference implementations: a table, exit 1 if a bit differs.

    tools/check_formats.py BUILD [VALUES]     BUILD: the folder with liboffload.so; VALUES of each, 2000000 by default

Random blocks (scales of all sizes, infinities and NaNs too) go through every form that this machine has, to F32, F16
and BF16; matrices with scales of their own, too, to the dtype that the reference computes in. NaNs count as equal. Needs numpy and gguf (0.19.0 is what it was written against); for matrices torch, and what is
there of transformers, compressed-tensors and GPTQModel's packing_utils.py (OFL_PACKING_UTILS names the file) (2.15,
5.24, 0.20.1, 7.7.0).
"""
import ctypes
import importlib.metadata
import importlib.util
import os
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


# ---- matrices ---------------------------------------------------------------------

PACKINGS = {name: n for n, name in enumerate(("SCALED", "FP4", "INT4", "GPTQ", "GPTQ_V2", "AWQ"))}
ROWS = 2048


class Matrix(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("packing", ctypes.c_int), ("dtype", ctypes.c_int), ("scale_dtype", ctypes.c_int),
                ("to", ctypes.c_int), ("rows", ctypes.c_uint64), ("columns", ctypes.c_uint64), ("group_rows", ctypes.c_uint64),
                ("group_columns", ctypes.c_uint64), ("first_row", ctypes.c_uint64), ("row_count", ctypes.c_uint64),
                ("packed", ctypes.c_void_p), ("scales", ctypes.c_void_p), ("zeros", ctypes.c_void_p), ("order", ctypes.c_void_p),
                ("scale_of_scales", ctypes.c_void_p), ("out", ctypes.c_void_p), ("form", ctypes.c_int)]


def land(lib, packing, want, packed, scales, groups, zeros=None, order=None, scale_of_scales=None, dtype="U8", scale_dtype=None):
    """How many values differ from those of want, a torch tensor [rows, columns], in all forms. Unpacked in two calls."""
    import torch
    to = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    names = to | {torch.float8_e4m3fn: "F8_E4M3", torch.uint8: "U8"}
    rows, columns = want.shape
    out = torch.empty(want.shape, dtype=want.dtype)
    keep = [t.contiguous() for t in (packed, scales, zeros, order, scale_of_scales) if t is not None]
    at = iter(t.data_ptr() for t in keep)
    pointers = [next(at) if t is not None else None for t in (packed, scales, zeros, order, scale_of_scales)]
    whole = torch.int32 if want.dtype == torch.float32 else torch.int16
    wrong = 0
    for form, first, count in ((form, *part) for form in range(5) for part in ((0, rows // 3), (rows // 3, rows - rows // 3))):
        m = Matrix(ctypes.sizeof(Matrix), PACKINGS[packing], NUMBERS[dtype], NUMBERS[scale_dtype or names[scales.dtype]],
                   NUMBERS[to[want.dtype]], rows, columns, *groups, first, count, *pointers, out[first:].data_ptr(), form)
        err = lib.ofl_landing_matrix_run(ctypes.byref(m))
        if err and err != -ENOTSUP:
            sys.exit(f"{packing}: {lib.ofl_error().decode()}")
        if first and not err:
            same = (out.view(whole) == want.contiguous().view(whole)) | (out.isnan() & want.isnan())
            wrong += int((~same).sum())
            out.zero_()
    return wrong, want.numel()


def floats_cases(lib, columns):
    """FP8 with scales of blocks, rows and the whole, as transformers and torch compute them."""
    import torch
    kinds = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
             "F8_E5M2FNUZ": torch.float8_e5m2fnuz}
    for name, kind in kinds.items():
        packed = torch.randint(0, 256, (ROWS, columns), dtype=torch.uint8)
        for what, groups in (("128 x 128", (128, 128)), ("rows", (1, 0)), ("one", (0, 0))):
            grid = (-(-ROWS // groups[0]) if groups[0] else 1, -(-columns // groups[1]) if groups[1] else 1)
            for scale_dtype in (torch.float32, torch.bfloat16):
                scales = (torch.randn(grid) * 0.01).to(scale_dtype)
                each = scales.repeat_interleave(groups[0] or ROWS, 0).repeat_interleave(groups[1] or columns, 1)
                want = packed.view(kind).to(scale_dtype) * each[:ROWS, :columns]
                yield f"{name} {what}, {scale_dtype}", "torch", land(lib, "SCALED", want, packed, scales, groups, dtype=name)
    try:
        from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    except ImportError:
        return
    packed = torch.randint(0, 256, (ROWS, columns), dtype=torch.uint8)
    scales = torch.randn(ROWS // 128, columns // 128) * 0.01
    want = Fp8Dequantize(None)._dequantize_one(packed.view(torch.float8_e4m3fn), scales)
    yield "F8_E4M3 128 x 128", "transformers", land(lib, "SCALED", want, packed, scales, (128, 128), dtype="F8_E4M3")


def fp4_cases(lib, columns):
    import torch
    packed = torch.randint(0, 256, (ROWS, columns // 2), dtype=torch.uint8)
    try:
        from transformers.integrations.mxfp4 import convert_moe_packed_tensors
        scales = torch.randint(0, 255, (ROWS, columns // 32), dtype=torch.uint8)
        for dtype in (torch.bfloat16, torch.float32):
            want = convert_moe_packed_tensors(packed.reshape(1, ROWS, columns // 32, 16), scales[None], dtype=dtype)[0].T
            yield f"MXFP4 of gpt-oss, {dtype}", "transformers", land(lib, "FP4", want, packed, scales, (1, 32))
    except ImportError:
        pass
    try:
        from compressed_tensors.compressors.nvfp4 import NVFP4PackedCompressor
        from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    except ImportError:
        return
    args = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    scales = torch.randint(0, 127, (ROWS, columns // 16), dtype=torch.uint8).view(torch.float8_e4m3fn)
    whole = torch.tensor([1234.5])
    want = NVFP4PackedCompressor.decompress({"weight_packed": packed, "weight_scale": scales, "weight_global_scale": whole},
                                            scheme)["weight"]
    yield "NVFP4", "compressed-tensors", land(lib, "FP4", want, packed, scales, (1, 16), scale_of_scales=whole)


def int4_cases(lib, columns):
    import torch
    try:
        from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
        from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    except ImportError:
        return
    words = torch.randint(-2**31, 2**31, (ROWS, columns // 8), dtype=torch.int64).to(torch.int32)
    for group, symmetric, dtype in ((128, True, torch.bfloat16), (32, False, torch.bfloat16), (0, True, torch.float16),
                                    (64, False, torch.float32)):
        scales = (torch.rand(ROWS, columns // (group or columns)) * 0.02).to(dtype)
        args = QuantizationArgs(num_bits=4, type="int", strategy="group" if group else "channel", group_size=group or None,
                                symmetric=symmetric)
        state = {"weight_packed": words, "weight_scale": scales, "weight_shape": torch.tensor([ROWS, columns])}
        zeros = None
        if not symmetric:
            zeros = pack_to_int32(torch.randint(-8, 8, scales.shape, dtype=torch.int8), 4, packed_dim=0).contiguous()
            state["weight_zero_point"] = zeros
        want = PackedQuantizationCompressor.decompress(state, QuantizationScheme(targets=["Linear"], weights=args))["weight"]
        what = f"INT4, groups of {group or 'a row'}, {'8' if symmetric else 'zeros'}, {dtype}"
        yield what, "compressed-tensors", land(lib, "INT4", want, words, scales, (1, group), zeros=zeros)


def nibbles(words, dim, order=range(8)):
    """Eight numbers of each word, in its place along dim."""
    import torch
    parts = [(words >> 4 * n) & 15 for n in order]
    return torch.stack(parts, dim + 1).flatten(dim, dim + 1)


def gptq_cases(lib, columns):
    import torch
    group = 128
    words = torch.randint(-2**31, 2**31, (columns // 8, ROWS), dtype=torch.int64).to(torch.int32)
    zeros = torch.randint(-2**31, 2**31, (columns // group, ROWS // 8), dtype=torch.int64).to(torch.int32)
    scales = (torch.rand(columns // group, ROWS) * 0.02).half()
    order = torch.randperm(columns).to(torch.int32) // group
    for what, packing, index, offset in (("in turn", "GPTQ", None, 0x11111111), ("ordered", "GPTQ", order, 0x11111111),
                                         ("version 2", "GPTQ_V2", order, 0)):
        which = (torch.arange(columns) // group if index is None else index).long()
        # GPTQModel's TorchQuantLinear, the words of version 1 made those of version 2 before
        want = scales[which] * (nibbles(words, 0).half() - nibbles(zeros + offset, 1).half()[which])
        yield f"GPTQ, {what}", "formula", land(lib, packing, want.T.contiguous(), words, scales, (0, group), zeros=zeros, order=index)
    words = torch.randint(-2**31, 2**31, (columns, ROWS // 8), dtype=torch.int64).to(torch.int32)
    want = ((nibbles(words, 1, (0, 4, 1, 5, 2, 6, 3, 7)) - nibbles(zeros, 1, (0, 4, 1, 5, 2, 6, 3, 7)).repeat_interleave(group, 0))
            * scales.repeat_interleave(group, 0))
    yield "AWQ", "formula", land(lib, "AWQ", want.T.contiguous(), words, scales, (0, group), zeros=zeros)
    if os.environ.get("OFL_PACKING_UTILS"):
        spec = importlib.util.spec_from_file_location("packing_utils", os.environ["OFL_PACKING_UTILS"])
        utils = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(utils)
        want = utils.dequantize_gemm(words, zeros, scales, 4, group)
        yield "AWQ", "GPTQModel", land(lib, "AWQ", want.T.contiguous(), words, scales, (0, group), zeros=zeros)


def matrices(lib, values):
    """How many values differ."""
    try:
        import torch
    except ImportError:
        print("matrices: not checked, torch is not here")
        return 0
    torch.manual_seed(1)
    columns = -(-values // ROWS // 128) * 128
    wrong = 0
    print(f"\n{'matrix':44} {'reference':20} {'values':>9} {'differ':>7}")
    for cases in (floats_cases, fp4_cases, int4_cases, gptq_cases):
        for what, reference, (count, of) in cases(lib, columns):
            version = "" if reference == "formula" else importlib.metadata.version(reference) if reference != "GPTQModel" else ""
            print(f"{what:44} {(reference + ' ' + version)[:24]:24} {of:>9} {count:>7}")
            wrong += count
    return wrong


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
    wrong += matrices(lib, values)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
