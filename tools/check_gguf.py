#!/usr/bin/env python3
"""Whether ofl-generate over a GGUF file gives the text of the same weights dequantized: a table, exit 1 if one differs.

    tools/check_gguf.py BUILD [FILE.gguf]     BUILD: the folder with ofl-generate

Small random Llamas in every packed dtype, with matrices of one dtype and mixed, tied and not, split and not, are
generated from in place inside small budgets; beside them a directory with the weights as F32, dequantized by the
package gguf, in memory. Greedy, 64 tokens, two prompts. With FILE.gguf the same for that file. Needs numpy, gguf and
safetensors (0.19.0 and 0.8.0 are what it was written against).
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import gguf
import numpy as np
from safetensors.numpy import save_file

HIDDEN, LAYERS, HEADS, KV_HEADS, FFN, VOCAB = 256, 2, 4, 2, 512, 256
TOKENIZER = pathlib.Path(__file__).parent.parent / "tests/golden/tokenizer_bytes.json"
PROMPTS = ("The sea", "x" * 90 + " and then")
NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
# where the F16 numbers of a block are
SCALES = {"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
          "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,)}


def matrix(rng, rows, columns, name):
    """Random numbers of about 1/16, as bytes of that type."""
    kind = gguf.GGMLQuantizationType[name]
    if name in ("F32", "F16", "BF16"):
        return gguf.quantize(rng.normal(0, 1 / 16, (rows, columns)).astype(np.float32), kind), kind
    elems, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // elems, size), np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = rng.integers(118, 122, len(blocks))
    else:
        for at in SCALES[name]:
            blocks[:, at:at + 2] = np.ones(1, np.float16).view(np.uint8)
        scale = 1 / 16 / gguf.dequantize(blocks, kind).std()
        for at in SCALES[name]:
            blocks[:, at:at + 2] = np.full(1, scale, np.float16).view(np.uint8)
    return blocks.reshape(rows, -1), kind


def make(path, rng, main, other, tied, parts):
    q, kv = HIDDEN, HIDDEN // HEADS * KV_HEADS
    w = gguf.GGUFWriter(path, "llama", split_max_tensors=8 if parts else 0)
    w.add_block_count(LAYERS)
    w.add_context_length(512)
    w.add_embedding_length(HIDDEN)
    w.add_feed_forward_length(FFN)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model("gpt2")
    w.add_bos_token_id(1)
    w.add_add_bos_token(True)

    def add(name, rows, columns, kind):
        data, kind = matrix(rng, rows, columns, kind)
        w.add_tensor(name, data, raw_dtype=kind)

    def norm(name):
        w.add_tensor(name, rng.normal(1, 0.1, HIDDEN).astype(np.float32))

    add("token_embd.weight", VOCAB, HIDDEN, other)
    for n in range(LAYERS):
        norm(f"blk.{n}.attn_norm.weight")
        add(f"blk.{n}.attn_q.weight", q, HIDDEN, main)
        add(f"blk.{n}.attn_k.weight", kv, HIDDEN, main)
        add(f"blk.{n}.attn_v.weight", kv, HIDDEN, other)
        add(f"blk.{n}.attn_output.weight", HIDDEN, q, main)
        norm(f"blk.{n}.ffn_norm.weight")
        add(f"blk.{n}.ffn_gate.weight", FFN, HIDDEN, main)
        add(f"blk.{n}.ffn_up.weight", FFN, HIDDEN, main)
        add(f"blk.{n}.ffn_down.weight", HIDDEN, FFN, other)
    norm("output_norm.weight")
    if not tied:
        add("output.weight", VOCAB, HIDDEN, other)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return sorted(path.parent.glob(path.stem + "*.gguf"))


def apart(values, heads):
    """Rows that GGUF has in pairs, as Hugging Face has them."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def dequantized(files, directory):
    """The Hugging Face directory of these files."""
    fields, tensors = {}, {}
    for file in files:
        reader = gguf.GGUFReader(file)
        fields = fields or {key: field.contents() for key, field in reader.fields.items() if len(field.data) == 1}
        for t in reader.tensors:
            values = gguf.dequantize(t.data, t.tensor_type).reshape([int(n) for n in reversed(t.shape)])
            parts = t.name.removesuffix(".weight").split(".")
            name = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}.get(parts[0])
            if name is None:
                name = f"model.layers.{parts[1]}.{NAMES[parts[2]]}"
                heads = {"attn_q": "head_count", "attn_k": "head_count_kv"}.get(parts[2])
                values = apart(values, fields[f"llama.attention.{heads}"]) if heads else values
            tensors[name + ".weight"] = np.ascontiguousarray(values)
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    bos = fields.get("tokenizer.ggml.bos_token_id") if fields.get("tokenizer.ggml.add_bos_token") else None
    (directory / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"], "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "vocab_size": len(tensors["model.embed_tokens.weight"]),
        "max_position_embeddings": fields["llama.context_length"], "rope_theta": fields["llama.rope.freq_base"],
        "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"], "bos_token_id": bos,
        "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"), "tie_word_embeddings": "lm_head.weight" not in tensors}))


def generate(build, model, tokenizer, prompt, *more):
    done = subprocess.run([build / "ofl-generate", "--device", "host", "--model", model, "--tokenizer", tokenizer, "--prompt", prompt,
                           "--temperature", "0", "--max-tokens", "64", *more], capture_output=True)
    return done.stdout if done.returncode == 0 else f"exit {done.returncode}: {done.stderr.decode()}"


def least(build, model, tokenizer, prompt):
    """The smallest device budget, which a refusal names."""
    text = generate(build, model, tokenizer, prompt, "--device-mem", "64K")
    words = text.split("smallest workable --device-mem is ")
    return words[1].split()[0] if len(words) == 2 else "1G"


def check(build, work, what, files):
    directory = work / "hf"
    dequantized(files, directory)
    bad = 0
    for prompt in PROMPTS:
        want = generate(build, directory, work, prompt, "--in-memory")
        got = generate(build, files[0], work, prompt, "--device-mem", least(build, files[0], work, prompt), "--host-mem", "4M")
        same = got == want and isinstance(want, bytes) and len(want) > 1
        bad += not same
        if not same:
            print(f"    wanted {want!r}\n    got    {got!r}")
    shutil.rmtree(directory)
    print(f"{what:34} {sum(os.path.getsize(f) for f in files):>10}  {'same' if not bad else 'DIFFERS'}", flush=True)
    return bad


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    build = pathlib.Path(sys.argv[1]).resolve()
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        shutil.copy(TOKENIZER, work / "tokenizer.json")
        print(f"{'matrices':34} {'bytes':>10}  greedy text of 64 tokens, two prompts")
        if len(sys.argv) == 3:
            bad += check(build, work, pathlib.Path(sys.argv[2]).name[-34:], [pathlib.Path(sys.argv[2])])
        for n, name in enumerate(("F32", "F16", "BF16", *SCALES, "MXFP4", "Q4_K Q6_K", "IQ4_XS Q5_1", "Q4_0 F16")):
            main_kind, other = (name.split() * 2)[:2]
            files = make(work / "m.gguf", np.random.default_rng(n), main_kind, other, n % 2 == 0, n % 3 == 0)
            what = name + (", tied" if n % 2 == 0 else "") + (f", {len(files)} files" if len(files) > 1 else "")
            bad += check(build, work, what, files)
            for file in files:
                file.unlink()
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
