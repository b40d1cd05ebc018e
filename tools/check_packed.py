#!/usr/bin/env python3
"""Whether models whose weights are packed come to what transformers has of the same weights unpacked: a table, exit 1 if not.

    tools/check_packed.py BUILD [CASE...]     BUILD: the folder with ofl-generate; a case by the beginning of its name

Small random Llamas, Phi-3 and gpt_oss, packed in each way that docs/families.md has, with and without groups, zeros and order; some
matrices stay as they are, as packers leave them. The other side is a transformers model in F32 with the weights that the
packers' own packages unpack (torch for FP8 and AWQ, compressed-tensors, GPTQ's formula). Logits behind 100 tokens within 1e-4,
64 tokens of greedy text equal, in memory and in the smallest budget. Needs torch, transformers, safetensors and
compressed-tensors (2.15, 5.24.0, 0.8.0 and 0.20.1 are what it was written against).
"""
import json
import os
import shutil
import sys
import tempfile

import check_families as families
import torch
import transformers
from check_formats import nibbles
from compressed_tensors.compressors.mxfp4 import MXFP4PackedCompressor
from compressed_tensors.compressors.nvfp4 import NVFP4PackedCompressor
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

STD, TOKENS = 0.05, 100
SMALL = dict(hidden_size=256, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
WIDE = dict(hidden_size=512, intermediate_size=8192, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=4)


def words(*shape):
    return torch.randint(-2**31, 2**31, shape, dtype=torch.int64).to(torch.int32)


def scales_of(shape, std, dtype):
    """Such that values have about the deviation of weights."""
    return ((torch.rand(shape) + 0.5) * STD / std).to(dtype)


def fp8(rows, columns, grid, dtype=torch.float32, name="weight_scale_inv"):
    numbers = (torch.randn(rows, columns) * 50).to(torch.float8_e4m3fn)
    scales = scales_of(grid, 50, dtype)
    down, right = -(-rows // grid[0]), -(-columns // grid[1]) if len(grid) > 1 else columns
    if grid != (1,):  # the last blocks may be smaller
        down, right = (128 if grid[0] not in (1, rows) else down), (128 if grid[1] != 1 else columns)
        each = scales.repeat_interleave(down, 0)[:rows].repeat_interleave(right, 1)[:, :columns]
    else:
        each = scales
    return {"weight": numbers, name: scales}, numbers.to(dtype) * each


def fp8_blocks(rows, columns):
    return fp8(rows, columns, (-(-rows // 128), -(-columns // 128)))


def fp8_channels(rows, columns):
    return fp8(rows, columns, (rows, 1), torch.bfloat16, "weight_scale")


def fp8_whole(rows, columns):
    return fp8(rows, columns, (1,), torch.float32, "weight_scale")


def int8_channels(rows, columns):
    numbers = torch.randint(-127, 128, (rows, columns), dtype=torch.int8)
    scales = scales_of((rows, 1), 73, torch.bfloat16)
    return {"weight": numbers, "weight_scale": scales}, numbers.to(torch.bfloat16) * scales


def int4(group, symmetric):
    def pack(rows, columns):
        args = QuantizationArgs(num_bits=4, type="int", strategy="group" if group else "channel", group_size=group,
                                symmetric=symmetric)
        state = {"weight_packed": words(rows, columns // 8), "weight_shape": torch.tensor([rows, columns]),
                 "weight_scale": scales_of((rows, columns // (group or columns)), 4.6, torch.bfloat16)}
        if not symmetric:
            zeros = torch.randint(-2, 3, state["weight_scale"].shape, dtype=torch.int8)
            state["weight_zero_point"] = pack_to_int32(zeros, 4, packed_dim=0).contiguous()
        return state, PackedQuantizationCompressor.decompress(dict(state), QuantizationScheme(targets=["Linear"], weights=args))["weight"]
    return pack


def nvfp4(rows, columns):
    state = {"weight_packed": torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8),
             "weight_scale": scales_of((rows, columns // 16), STD, torch.float32).to(torch.float8_e4m3fn),
             "weight_global_scale": torch.tensor([3 / STD])}
    args = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16)
    return state, NVFP4PackedCompressor.decompress(dict(state), QuantizationScheme(targets=["Linear"], weights=args))["weight"]


def mxfp4(rows, columns):
    state = {"weight_packed": torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8),
             "weight_scale": torch.randint(119, 123, (rows, columns // 32), dtype=torch.uint8)}
    args = QuantizationArgs(num_bits=4, type="float", strategy="group", group_size=32)
    return state, MXFP4PackedCompressor.decompress(dict(state), QuantizationScheme(targets=["Linear"], weights=args))["weight"]


def gptq(order, version2=False, group=128):
    def pack(rows, columns):
        which = torch.arange(columns, dtype=torch.int32) // group
        if order:
            which = which[torch.randperm(columns)].contiguous()
        groups = -(-columns // group)
        zeros = torch.randint(6, 10, (groups, rows), dtype=torch.int64)
        stored = sum((zeros[:, n::8] - (0 if version2 else 1)) << 4 * n for n in range(8))
        state = {"qweight": words(columns // 8, rows), "scales": scales_of((groups, rows), 4.6, torch.float16), "g_idx": which,
                 "qzeros": (stored - ((stored >> 31) << 32)).to(torch.int32)}
        values = state["scales"][which.long()] * (nibbles(state["qweight"], 0).half() - zeros.half()[which.long()])
        return state, values.T.contiguous()
    return pack


def awq(rows, columns, group=64):
    state = {"qweight": words(columns, rows // 8), "scales": scales_of((columns // group, rows), 6, torch.float16),
             "qzeros": words(columns // group, rows // 8)}
    turn = (0, 4, 1, 5, 2, 6, 3, 7)
    zeros = nibbles(state["qzeros"], 1, turn).repeat_interleave(group, 0)
    values = (nibbles(state["qweight"], 1, turn) - zeros) * state["scales"].repeat_interleave(group, 0)
    return state, values.T.contiguous()


def gpt_oss(experts, inputs, outputs):
    """All experts of a layer as one; transformers unpacks them to [experts, inputs, outputs]."""
    state = {"_blocks": torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8),
             "_scales": torch.randint(119, 123, (experts, outputs, inputs // 32), dtype=torch.uint8)}
    return state, convert_moe_packed_tensors(state["_blocks"], state["_scales"], dtype=torch.float32)


def compressed(**weights):
    return dict(quant_method="compressed-tensors", config_groups=dict(group_0=dict(targets=["Linear"], weights=weights)),
                ignore=["lm_head"])


FP8 = dict(quant_method="fp8", weight_block_size=[128, 128])
INT4 = compressed(num_bits=4, type="int")
GPTQ = dict(quant_method="gptq", bits=4, group_size=128)
OSS = dict(num_local_experts=4, num_experts_per_tok=2, head_dim=16, sliding_window=32, rope_parameters=dict(
    rope_type="yarn", rope_theta=1.5e5, factor=8.0, beta_fast=32.0, beta_slow=1.0, truncate=False, original_max_position_embeddings=64))
MXFP4 = dict(quant_method="mxfp4", modules_to_not_convert=["model.layers.*.self_attn", "model.layers.*.mlp.router"])
# name: (family, what it has beside BASE, its packer, quantization_config)
CASES = {
    "fp8 128 x 128": ("Llama", SMALL, fp8_blocks, FP8),
    "fp8 128 x 128, cut": ("Llama", WIDE, fp8_blocks, FP8),
    "fp8 128 x 128, qwen3": ("Qwen3", dict(SMALL, head_dim=64), fp8_blocks, FP8),
    "fp8 channels": ("Llama", SMALL, fp8_channels, compressed(num_bits=8, type="float", strategy="channel")),
    "fp8 channels, phi3": ("Phi3", SMALL, fp8_channels, compressed(num_bits=8, type="float", strategy="channel")),
    "fp8 whole": ("Llama", SMALL, fp8_whole, compressed(num_bits=8, type="float", strategy="tensor")),
    "fp8 whole, cut": ("Llama", WIDE, fp8_whole, compressed(num_bits=8, type="float", strategy="tensor")),
    "int8 channels": ("Llama", SMALL, int8_channels, compressed(num_bits=8, type="int", strategy="channel")),
    "int4 groups": ("Llama", SMALL, int4(32, True), INT4),
    "int4 groups, zeros": ("Llama", SMALL, int4(128, False), INT4),
    "int4 groups, zeros, cut": ("Llama", WIDE, int4(128, False), INT4),
    "int4 groups, zeros, phi3": ("Phi3", SMALL, int4(32, False), INT4),
    "int4 channels": ("Llama", SMALL, int4(None, True), INT4),
    "int4 channels, zeros": ("Llama", SMALL, int4(None, False), INT4),
    "nvfp4": ("Llama", SMALL, nvfp4, compressed(num_bits=4, type="float", strategy="tensor_group", group_size=16)),
    "nvfp4, cut": ("Llama", WIDE, nvfp4, compressed(num_bits=4, type="float", strategy="tensor_group", group_size=16)),
    "mxfp4": ("Llama", SMALL, mxfp4, compressed(num_bits=4, type="float", strategy="group", group_size=32)),
    "mxfp4 of gpt_oss": ("GptOss", {**SMALL, **OSS}, gpt_oss, MXFP4),
    "mxfp4 of gpt_oss, cut": ("GptOss", {**SMALL, **OSS, "intermediate_size": 8192, "num_hidden_layers": 1}, gpt_oss, MXFP4),
    "gptq": ("Llama", SMALL, gptq(False), GPTQ),
    "gptq, desc_act": ("Llama", SMALL, gptq(True), dict(GPTQ, desc_act=True)),
    "gptq, desc_act, wide": ("Llama", WIDE, gptq(True), dict(GPTQ, desc_act=True)),
    "gptq v2": ("Llama", SMALL, gptq(True, True), dict(GPTQ, checkpoint_format="gptq_v2")),
    "gptq, phi3": ("Phi3", SMALL, gptq(False), GPTQ),
    "awq": ("Llama", SMALL, awq, dict(quant_method="awq", bits=4, group_size=64, version="gemm")),
    "awq, wide": ("Llama", WIDE, awq, dict(quant_method="awq", bits=4, group_size=64, version="gemm")),
}


def make(plain, packed, case):
    """The same model unpacked in F32, and packed."""
    family, over, pack, config = case
    torch.manual_seed(11)
    families.make(plain, (family, {**over, "initializer_range": STD}, None))
    tensors, kept = load_file(f"{plain}/model.safetensors"), {}
    for name, values in list(tensors.items()):
        left = (values.dim() != 3 if family == "GptOss" else values.dim() != 2 or "embed" in name or "lm_head" in name
                or name.endswith("layers.0.self_attn.o_proj.weight"))
        if left:
            kept[name] = tensors[name] = values
            if values.dim() == 2:  # as packers leave what they don't pack
                kept[name] = values.bfloat16()
                tensors[name] = kept[name].float()
            continue
        parts, dense = pack(*values.shape)
        assert dense.shape == values.shape, (name, dense.shape)
        tensors[name] = dense.float().contiguous()
        kept.update({name.removesuffix("weight") + part: value for part, value in parts.items()})
    shutil.copytree(plain, packed)
    save_file(tensors, f"{plain}/model.safetensors", metadata={"format": "pt"})
    save_file(kept, f"{packed}/model.safetensors", metadata={"format": "pt"})
    with open(f"{packed}/config.json", encoding="utf-8") as f:
        c = json.load(f)
    c["quantization_config"] = config
    with open(f"{packed}/config.json", "w", encoding="utf-8") as f:
        json.dump(c, f)


def paged(build, directory, prompt):
    """Text in the smallest budget, which a refusal names."""
    import subprocess
    run = [f"{build}/ofl-generate", "--model", directory, "--prompt", prompt, "--max-tokens", "64", "--temperature", "0",
           "--device", "host", "--host-mem", "4M", "--device-mem"]
    said = subprocess.run([*run, "64K"], capture_output=True).stderr.decode().split("smallest workable --device-mem is ")
    done = subprocess.run([*run, said[1].split()[0] if len(said) == 2 else "1G"], capture_output=True)
    return done.stdout.removesuffix(b"\n") if done.returncode == 0 else done.stderr


def check(build, program, work, name, text):
    plain, packed = os.path.join(work, "plain"), os.path.join(work, "packed")
    make(plain, packed, CASES[name])
    prompt = [256, *text.encode()]
    model = families.load(plain).eval()
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
        far = (logits - families.ours_logits(program, packed, prompt)).abs().max().item()
        want, close = families.theirs_text(model, prompt)
    same = families.ours_text(build, "host", packed, text) == want, paged(build, packed, text) == want
    size = os.path.getsize(f"{packed}/model.safetensors") / os.path.getsize(f"{plain}/model.safetensors")
    good = far <= families.LOGITS and all(same)
    print(f"{name:26} {size:4.0%} of F32's bytes  logits {far:.1e} of {logits.abs().max():.1f}  text "
          f"{'equal' if same[0] else 'DIFFERS'}, paged {'equal' if same[1] else 'DIFFERS'} (closest call {close:.1e})"
          f"  {'' if good else 'FAILED'}", flush=True)
    shutil.rmtree(plain)
    shutil.rmtree(packed)
    return good


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    build, wanted, bad = sys.argv[1], sys.argv[2:], 0
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as work:
        program = families.build_logits(build, work)
        for name in CASES:
            if not wanted or any(name.startswith(w) for w in wanted):
                try:
                    bad += not check(build, program, work, name, "the quick brown fox jumps over a lazy dog; " * 2 + "and so on")
                except RuntimeError as e:
                    print(f"{name:26} {e}  FAILED", flush=True)
                    bad += 1
                    for folder in ("plain", "packed"):
                        shutil.rmtree(os.path.join(work, folder), ignore_errors=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
