#!/usr/bin/env python3
"""Writes a Hugging Face directory of a Llama with random BF16 weights, of any shape.

Plain Python: needs no package. About 150 MB/s. Same shape and seed, same bytes.
"""
import argparse
import json
import os
import random
import struct
import sys

BLOCK = 16 << 20  # elements made at once


def tensors(a):
    """Names and shapes, in the order of the file."""
    q, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
    yield "model.embed_tokens.weight", [a.vocab, a.hidden]
    for n in range(a.layers):
        layer = f"model.layers.{n}."
        yield layer + "input_layernorm.weight", [a.hidden]
        yield layer + "self_attn.q_proj.weight", [q, a.hidden]
        yield layer + "self_attn.k_proj.weight", [kv, a.hidden]
        yield layer + "self_attn.v_proj.weight", [kv, a.hidden]
        yield layer + "self_attn.o_proj.weight", [a.hidden, q]
        yield layer + "post_attention_layernorm.weight", [a.hidden]
        yield layer + "mlp.gate_proj.weight", [a.ffn, a.hidden]
        yield layer + "mlp.up_proj.weight", [a.ffn, a.hidden]
        yield layer + "mlp.down_proj.weight", [a.hidden, a.ffn]
    yield "model.norm.weight", [a.hidden]
    if a.untied:
        yield "lm_head.weight", [a.vocab, a.hidden]


def elems(shape):
    n = 1
    for d in shape:
        n *= d
    return n


# High bytes of BF16 numbers of either sign and, with the low byte's first bit, of 2^-7 to 2^-5:
# small enough that sums over a row stay of order one, and never NaN.
SIGNS = bytes(0xBC if b & 0x80 else 0x3C for b in range(256))


def matrix(rng, n):
    data = bytearray(2 * n)
    data[0::2] = rng.randbytes(n)
    data[1::2] = rng.randbytes(n).translate(SIGNS)
    return data


def write_weights(a, path):
    header, at = {}, 0
    for name, shape in tensors(a):
        end = at + 2 * elems(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = random.Random(a.seed)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)))
        f.write(text)
        for _, shape in tensors(a):
            left = elems(shape)
            if len(shape) == 1:
                f.write(b"\x80\x3f" * left)  # ones
                continue
            while left:
                n = min(left, BLOCK)
                f.write(matrix(rng, n))
                left -= n
    return at


def config(a):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "num_hidden_layers": a.layers, "hidden_size": a.hidden, "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads, "head_dim": a.head_dim, "intermediate_size": a.ffn,
        "vocab_size": a.vocab, "max_position_embeddings": a.positions, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "rope_scaling": None, "initializer_range": 0.02, "tie_word_embeddings": not a.untied,
        "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "bos_token_id": 256,
        "eos_token_id": None, "torch_dtype": "bfloat16", "use_cache": True}


def byte_names():
    """The characters that stand for bytes in a byte-level BPE: printable ones for themselves."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (b for b in range(256) if b not in plain)
    names = {b: chr(b) for b in plain}
    names.update((b, chr(256 + i)) for i, b in enumerate(others))
    return {names[b]: b for b in range(256)}


def tokenizer():
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": 256, "content": "<|begin|>", **special}], "normalizer": None, "pre_tokenizer": level,
        "post_processor": None, "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": byte_names(), "merges": []}}


def save(directory, name, value):
    with open(os.path.join(directory, name), "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1, ensure_ascii=False)
        f.write("\n")


def parse():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The default shape has 1.28 GB. --layers 10 --hidden 1024 --heads 16 --kv-heads 8 --ffn 2048\n"
        "--vocab 2048 has 193 MB, with --layers 6: 117 MB. The tokenizer is one of bytes, with a start\n"
        "token and no end token: a text has as many tokens as were asked for.")
    p.add_argument("directory", help="made if it is not there")
    p.add_argument("--layers", type=int, default=14)
    p.add_argument("--hidden", type=int, default=2048)
    p.add_argument("--heads", type=int, default=32)
    p.add_argument("--kv-heads", type=int, default=8)
    p.add_argument("--head-dim", type=int, default=0, help="hidden / heads by default")
    p.add_argument("--ffn", type=int, default=5632, help="intermediate_size")
    p.add_argument("--vocab", type=int, default=4096, help="257 at least")
    p.add_argument("--positions", type=int, default=2048, help="max_position_embeddings")
    p.add_argument("--untied", action="store_true", help="an output matrix of its own")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    a.head_dim = a.head_dim or a.hidden // a.heads
    if a.vocab < 257 or a.head_dim % 2 or a.heads % a.kv_heads:
        p.error("257 tokens at least, an even --head-dim, and --heads a multiple of --kv-heads are needed")
    return a


def main():
    a = parse()
    os.makedirs(a.directory, exist_ok=True)
    total = write_weights(a, os.path.join(a.directory, "model.safetensors"))
    save(a.directory, "config.json", config(a))
    save(a.directory, "tokenizer.json", tokenizer())
    print(f"{a.directory}: {total} bytes of weights ({total / 1e9:.3f} GB)", file=sys.stderr)


if __name__ == "__main__":
    main()
