#!/usr/bin/env python3
"""Whether GGUF files of each architecture come to what transformers has of the same weights: a table, exit 1 if not.

    tools/check_gguf_families.py BUILD [CASE...]     BUILD: the folder with ofl-generate; a case by the beginning of its name

Small random models of transformers are written as GGUF with the package gguf: names of tensors are its own, keys and changes
of values those of llama.cpp's converter (rows of Q and K in pairs, 1 added to Gemma's norms). In F32, and with matrices in
Q8_0, whose dequantized values the other side has then. Logits behind 100 tokens within 1e-4, 64 tokens of greedy text equal;
where transformers reads such a file by itself (Qwen2, Qwen3, Gemma 2 and 3, Phi-3), also the logits of what it has read.
Needs torch, transformers, safetensors and gguf (2.15, 5.24.0, 0.8.0 and 0.19.0 are what it was written against).
"""
import os
import shutil
import sys
import tempfile

import check_families as families
import gguf
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

LONG = dict(families.LONG, short_factor=families.factors(1.0) * 2, long_factor=families.factors(2.0) * 2, partial_rotary_factor=1.0)
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=64)
LAYERS = dict(num_hidden_layers=6)
# name: (class, what it has beside BASE, architecture); sizes are whole blocks of Q8_0
CASES = {
    "llama": ("Llama", {}, "llama"),
    "qwen2": ("Qwen2", {}, "qwen2"),
    "qwen2, yarn, tied": ("Qwen2", dict(rope_parameters=YARN, tie_word_embeddings=True), "qwen2"),
    "qwen3": ("Qwen3", dict(head_dim=128), "qwen3"),
    "gemma2": ("Gemma2", dict(head_dim=256, sliding_window=16, query_pre_attn_scalar=256), "gemma2"),
    "gemma3": ("Gemma3", dict(LAYERS, head_dim=256, sliding_window=16, query_pre_attn_scalar=256), "gemma3"),
    "gemma3, linear": ("Gemma3", dict(LAYERS, head_dim=32, sliding_window=16, query_pre_attn_scalar=32, rope_parameters=dict(
        full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
        sliding_attention=dict(rope_type="default", rope_theta=1e4))), "gemma3"),
    "phi3": ("Phi3", {}, "phi3"),
    "phi3, window": ("Phi3", dict(sliding_window=40), "phi3"),
    "phi3, partial": ("Phi3", dict(rope_parameters=dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5)), "phi3"),
    "phi3, longrope": ("Phi3", dict(rope_parameters=LONG, original_max_position_embeddings=64), "phi3"),
    "granite": ("Granite", dict(embedding_multiplier=6.0, residual_multiplier=0.3, attention_multiplier=0.125, logits_scaling=4.0,
                                tie_word_embeddings=True), "granite"),
    "olmo2": ("Olmo2", {}, "olmo2"),
    "smollm3": ("SmolLM3", {}, "smollm3"),
}
BY_THEMSELVES = ("qwen2", "qwen3", "gemma2", "gemma3", "phi3")


def in_pairs(values, heads):
    rest = values.shape[1:]
    return values.reshape(heads, 2, values.shape[0] // heads // 2, *rest).swapaxes(1, 2).reshape(values.shape)


def write_keys(w, c, architecture):
    head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_key_length(head)
    w.add_value_length(head)
    rope = c.rope_parameters
    rope = rope.get("full_attention", rope)
    w.add_rope_freq_base(rope["rope_theta"])
    if architecture == "phi3":
        w.add_rope_dimension_count(int(head * rope.get("partial_rotary_factor", 1.0)))
    if rope["rope_type"] in ("linear", "yarn"):
        w.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        w.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] in ("yarn", "longrope"):
        w.add_rope_scaling_orig_ctx_len(rope.get("original_max_position_embeddings") or c.original_max_position_embeddings)
    if rope["rope_type"] == "longrope":
        ratio = c.max_position_embeddings / c.original_max_position_embeddings
        w.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(ratio) / np.log(c.original_max_position_embeddings))))
        for name in ("long", "short"):
            w.add_tensor(f"rope_factors_{name}.weight", np.array(rope[name + "_factor"], np.float32))
    if architecture.startswith("gemma") or (architecture == "phi3" and c.sliding_window):
        w.add_sliding_window(c.sliding_window)
    if architecture == "gemma2":
        w.add_attn_logit_softcapping(c.attn_logit_softcapping)
        w.add_final_logit_softcapping(c.final_logit_softcapping)
    if architecture == "granite":
        w.add_attention_scale(c.attention_multiplier)
        w.add_embedding_scale(c.embedding_multiplier)
        w.add_residual_scale(c.residual_multiplier)
        w.add_logit_scale(c.logits_scaling)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    chars = {**{b: chr(b) for b in keep}, **{b: chr(256 + i) for i, b in enumerate(rest)}}
    tokens = [chars[b] for b in range(256)] + ["<s>", "</s>"] + [chars[255] + chars[254]] + [f"[PAD{n}]" for n in range(259, c.vocab_size)]
    w.add_token_list(tokens)
    w.add_token_types([1] * 256 + [3, 3, 1] + [5] * (c.vocab_size - 259))
    w.add_token_merges([chars[255] + " " + chars[254]])  # of bytes that no text has
    w.add_pad_token_id(259)
    w.add_bos_token_id(256)
    w.add_eos_token_id(257)
    w.add_add_bos_token(True)


def write(path, model, architecture, packed):
    """The file; the model gets the values that it holds."""
    c, state = model.config, model.state_dict()
    w = gguf.GGUFWriter(path, architecture)
    write_keys(w, c, architecture)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], c.num_hidden_layers)
    for name, tensor in state.items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        values = tensor.numpy()
        if architecture in ("llama", "granite", "smollm3") and ("q_proj" in name or "k_proj" in name):
            values = in_pairs(values, c.num_attention_heads if "q_proj" in name else c.num_key_value_heads)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        if name == "model.embed_tokens.weight" or values.ndim == 1 or not packed:
            w.add_tensor(names.get_name(name, (".weight", ".bias")), np.ascontiguousarray(values))
            continue
        kind = gguf.GGMLQuantizationType.Q8_0
        blocks = gguf.quantize(values, kind)
        w.add_tensor(names.get_name(name, (".weight", ".bias")), blocks, raw_dtype=kind)
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(tensor.numpy(), kind), kind)))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def logits_of(model, prompt):
    with torch.no_grad():
        return model(torch.tensor([prompt])).logits[0, -1]


def theirs_text(model, prompt):
    """As families.theirs_text, with the tokens beyond bytes that the file has."""
    more = {258: b"\xff\xfe", 259: b"[PAD259]"}
    x = torch.tensor([prompt])
    y = model.generate(input_ids=x, attention_mask=torch.ones_like(x), max_new_tokens=families.TEXT, do_sample=False,
                       output_logits=True, return_dict_in_generate=True)
    top = torch.cat(y.logits).topk(2).values
    tokens = y.sequences[0, len(prompt):].tolist()
    return b"".join(bytes([t]) if t < 256 else more.get(t, b"") for t in tokens), (top[:, 0] - top[:, 1]).min().item()


def check(build, program, work, name, packed, text):
    family, over, architecture = CASES[name]
    plain, path = os.path.join(work, "plain"), os.path.join(work, "m.gguf")
    families.make(plain, (family, over, None))
    model = families.load(plain).eval()
    write(path, model, architecture, packed)
    prompt = [256, *text.encode()]
    ours = families.ours_logits(program, path, prompt)
    far = (logits_of(model, prompt) - ours).abs().max().item()
    theirs = 0.0
    if architecture in BY_THEMSELVES and name not in ("qwen2, yarn, tied", "phi3, longrope", "phi3, partial", "phi3, window", "gemma3, linear"):
        read = AutoModelForCausalLM.from_pretrained(work, gguf_file="m.gguf", dtype=torch.float32, attn_implementation="eager").eval()
        theirs = (logits_of(read, prompt) - ours).abs().max().item()
    want, close = theirs_text(model, prompt)
    same = families.ours_text(build, "host", path, text) == want
    good = far <= families.LOGITS and theirs <= families.LOGITS and same
    print(f"{name:18} {'Q8_0' if packed else 'F32':4}  logits {far:.1e}, read by transformers {theirs:.1e}  text "
          f"{'equal' if same else 'DIFFERS'} (closest call {close:.1e})  {'' if good else 'FAILED'}", flush=True)
    shutil.rmtree(plain)
    os.unlink(path)
    return good


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    build, wanted, bad = sys.argv[1], sys.argv[2:], 0
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as work:
        program = families.build_logits(build, work)
        for name in CASES:
            for packed in (False, True):
                if wanted and not any(name.startswith(w) for w in wanted):
                    continue
                try:
                    bad += not check(build, program, work, name, packed, "the quick brown fox jumps over a lazy dog; " * 2 + "and so on")
                except RuntimeError as e:
                    print(f"{name:18} {e}  FAILED", flush=True)
                    shutil.rmtree(os.path.join(work, "plain"), ignore_errors=True)
                    bad += 1
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
