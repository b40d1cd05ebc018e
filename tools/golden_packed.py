#!/usr/bin/env python3
"""Prints tests/golden/packed.json: small models whose weights are packed, and the logits that transformers has of them.

    tools/golden_packed.py >tests/golden/packed.json

A tensor's bytes follow from a rule and a number (fill), so that the test makes the same; weights are unpacked by
compressed-tensors, torch, or the formula of GPTQ and AWQ, and put into a transformers model in F32. Needs what
tools/check_packed.py needs.
"""
import json
import sys

import numpy as np
import torch
import transformers
from check_formats import nibbles
from compressed_tensors.compressors.nvfp4 import NVFP4PackedCompressor
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

CONFIG = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1,
              num_attention_heads=2, num_key_value_heads=1, head_dim=32, vocab_size=40, max_position_embeddings=64,
              rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)
TOKENS = [1, 17, 4, 39, 8, 22, 5, 30]
GROUP, BLOCK = 32, 32
MATRICES = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64), "self_attn.o_proj": (64, 64),
            "mlp.gate_proj": (96, 64), "mlp.up_proj": (96, 64), "mlp.down_proj": (64, 96)}
KINDS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I32": torch.int32, "U8": torch.uint8, "I8": torch.int8,
         "F8_E4M3": torch.float8_e4m3fn}


def mixed(number, count):
    x = (np.arange(count, dtype=np.uint64) * 2654435761 + number * 97) & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 2246822519 & 0xFFFFFFFF
    return x ^ x >> 13


def fill(tensor):
    """The rules, which tests/test_packed.c has, too."""
    kind, shape, rule = KINDS[tensor["dtype"]], tensor["shape"], tensor["rule"]
    count = int(np.prod(shape))
    h = mixed(tensor["number"], count * (4 if rule == "bytes" and kind == torch.int32 else 1))
    if rule == "bytes":
        return torch.from_numpy((h & 255).astype(np.uint8)).view(kind).reshape(shape)
    if rule == "f8":  # of either sign, 0.5 to 0.9375
        return torch.from_numpy((h & 0x87 | 0x30).astype(np.uint8)).view(kind).reshape(shape)
    if rule == "f8 scale":
        return torch.from_numpy((h & 7 | 0x38).astype(np.uint8)).view(kind).reshape(shape)
    if rule in ("in turn", "ordered"):
        i = np.arange(count)
        return torch.from_numpy(((i * 7 + 3) % count if rule == "ordered" else i).astype(np.int32) // GROUP)
    if rule == "scale":
        values = (4 + h % 4) / 4 * tensor["base"]
    else:  # weights
        values = (h % 17).astype(np.float64) / 64 - 8 / 64 if rule == "weights" else 1 + (h % 5) / 16
    return torch.from_numpy(values.astype(np.float64)).to(kind).reshape(shape)


def args_of(**more):
    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**more))


def int4(parts, rows, columns, symmetric):
    state = {"weight_shape": torch.tensor([rows, columns]), **parts}
    return PackedQuantizationCompressor.decompress(state, args_of(num_bits=4, type="int", strategy="group", group_size=GROUP,
                                                                 symmetric=symmetric))["weight"]


def nvfp4(parts, rows, columns):
    return NVFP4PackedCompressor.decompress(dict(parts), args_of(num_bits=4, type="float", strategy="tensor_group", group_size=16))["weight"]


def scaled(name):
    def unpack(parts, rows, columns):
        scales = parts[name]
        down, right = (BLOCK, BLOCK) if name.endswith("inv") else (rows // scales.shape[0], columns)
        return parts["weight"].to(scales.dtype) * scales.repeat_interleave(down, 0).repeat_interleave(right, 1)
    return unpack


def gptq(parts, rows, columns):
    zeros = nibbles(parts["qzeros"] + 0x11111111, 1).half()[parts["g_idx"].long()]
    return (parts["scales"][parts["g_idx"].long()] * (nibbles(parts["qweight"], 0).half() - zeros)).T


def awq(parts, rows, columns):
    turn = (0, 4, 1, 5, 2, 6, 3, 7)
    zeros = nibbles(parts["qzeros"], 1, turn).repeat_interleave(GROUP, 0)
    return ((nibbles(parts["qweight"], 1, turn) - zeros) * parts["scales"].repeat_interleave(GROUP, 0)).T


def compressed(bits, kind):
    return dict(quant_method="compressed-tensors", config_groups=dict(group_0=dict(weights=dict(num_bits=bits, type=kind))))


# parts of a matrix [r, c]: ending, dtype, shape, rule, and the base of scales
CASES = {
    "fp8": (dict(quant_method="fp8", weight_block_size=[BLOCK, BLOCK]), scaled("weight_scale_inv"), lambda r, c: [
        ("weight", "F8_E4M3", [r, c], "f8", 0), ("weight_scale_inv", "F32", [r // BLOCK, c // BLOCK], "scale", 1 / 8)]),
    "fp8 channels": (compressed(8, "float"), scaled("weight_scale"), lambda r, c: [
        ("weight", "F8_E4M3", [r, c], "f8", 0), ("weight_scale", "BF16", [r, 1], "scale", 1 / 8)]),
    "int8 channels": (compressed(8, "int"), scaled("weight_scale"), lambda r, c: [
        ("weight", "I8", [r, c], "bytes", 0), ("weight_scale", "BF16", [r, 1], "scale", 2**-10)]),
    "int4": (compressed(4, "int"), lambda p, r, c: int4(p, r, c, True), lambda r, c: [
        ("weight_packed", "I32", [r, c // 8], "bytes", 0), ("weight_scale", "BF16", [r, c // GROUP], "scale", 2**-6)]),
    "int4 zeros": (compressed(4, "int"), lambda p, r, c: int4(p, r, c, False), lambda r, c: [
        ("weight_packed", "I32", [r, c // 8], "bytes", 0), ("weight_scale", "BF16", [r, c // GROUP], "scale", 2**-6),
        ("weight_zero_point", "I32", [r // 8, c // GROUP], "bytes", 0)]),
    "nvfp4": (compressed(4, "float"), nvfp4, lambda r, c: [
        ("weight_packed", "U8", [r, c // 2], "bytes", 0), ("weight_scale", "F8_E4M3", [r, c // 16], "f8 scale", 0),
        ("weight_global_scale", "F32", [1], "scale", 24)]),
    "gptq": (dict(quant_method="gptq", bits=4, group_size=GROUP), gptq, lambda r, c: [
        ("qweight", "I32", [c // 8, r], "bytes", 0), ("scales", "F16", [c // GROUP, r], "scale", 2**-6),
        ("qzeros", "I32", [c // GROUP, r // 8], "bytes", 0), ("g_idx", "I32", [c], "ordered", 0)]),
    "awq": (dict(quant_method="awq", bits=4, group_size=GROUP, version="gemm"), awq, lambda r, c: [
        ("qweight", "I32", [c, r // 8], "bytes", 0), ("scales", "F16", [c // GROUP, r], "scale", 2**-6),
        ("qzeros", "I32", [c // GROUP, r // 8], "bytes", 0)]),
}


def listed(parts_of):
    """All tensors of a model, in order; q_proj stays as it is."""
    out = [("model.embed_tokens.weight", "BF16", [40, 64], "weights", 0), ("lm_head.weight", "BF16", [40, 64], "weights", 0),
           ("model.norm.weight", "F32", [64], "norm", 0)]
    for norm in ("input_layernorm", "post_attention_layernorm"):
        out.append((f"model.layers.0.{norm}.weight", "F32", [64], "norm", 0))
    for name, (rows, columns) in MATRICES.items():
        parts = [("weight", "BF16", [rows, columns], "weights", 0)] if name == "self_attn.q_proj" else parts_of(rows, columns)
        out += [(f"model.layers.0.{name}.{end}", *rest) for end, *rest in parts]
    keys = ("name", "dtype", "shape", "rule", "base")
    return [{**dict(zip(keys, tensor)), "number": n} for n, tensor in enumerate(out)]


def logits_of(tensors, unpack):
    values = {t["name"]: fill(t) for t in tensors}
    state = {}
    for name in [t["name"] for t in tensors]:
        module, end = name.rsplit(".", 1)
        if end == "weight" and values[name].dtype in (torch.float32, torch.bfloat16):
            state[name] = values[name].float()
    for name, (rows, columns) in MATRICES.items():
        begin = f"model.layers.0.{name}."
        if begin + "weight" not in state:
            parts = {key.removeprefix(begin): value for key, value in values.items() if key.startswith(begin)}
            state[begin + "weight"] = unpack(parts, rows, columns).float().contiguous()
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG, attn_implementation="eager")).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0, -1].tolist()


def main():
    torch.set_num_threads(1)
    cases = []
    for name, (config, unpack, parts_of) in CASES.items():
        tensors = listed(parts_of)
        cases.append(dict(name=name, quantization_config=config, tensors=tensors,
                          logits=[round(x, 6) for x in logits_of(tensors, unpack)]))
    text = json.dumps(dict(config=CONFIG, tokens=TOKENS, group=GROUP, cases=cases))
    sys.stdout.write(text.replace('{"name"', '\n{"name"') + "\n")


if __name__ == "__main__":
    main()
