#!/usr/bin/env python3
"""Writes tests/golden/llama_block.txt: numbers of small Llama models from PyTorch.

    python3 tools/golden_block.py > tests/golden/llama_block.txt

Needs torch and transformers. The models are transformers' LlamaForCausalLM in f32 with eager
attention. Their weights are not stored: both sides make them from a hash, as small multiples of
powers of two that F32, BF16 and F16 all hold exactly. Each tensor of results is stored as its
Euclidean norm and every stride-th value. tests/test_block_golden.c reads the file.
"""

import sys

import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

KEPT = 128

CASES = {
    "plain": dict(
        hidden=48, heads=4, kv_heads=2, head_dim=12, ffn=72, vocab=96, batch=2, seq=7, eps=1e-6, tied=False,
        rope={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "llama3": dict(
        hidden=40, heads=4, kv_heads=1, head_dim=16, ffn=56, vocab=64, batch=1, seq=65, eps=1e-5, tied=True,
        rope={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    ),
    "linear": dict(
        hidden=24, heads=3, kv_heads=3, head_dim=8, ffn=40, vocab=50, batch=3, seq=5, eps=1e-5, tied=True,
        rope={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    ),
}
LAYERS = 2
BLOCK = [
    "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
]


def hashed(stream, n):
    """n 64-bit numbers: SplitMix64's finaliser over counters."""
    with np.errstate(over="ignore"):
        x = (np.arange(n, dtype=np.uint64) + (np.uint64(stream) << np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def values(stream, shape, scale, offset=0.0):
    n = int(np.prod(shape))
    v = (hashed(stream, n) >> np.uint64(57)).astype(np.float64) - 64
    return torch.tensor((offset + v / 64 * scale).astype(np.float32)).reshape(tuple(shape))


def fill(model):
    """Streams: 1 embedding, 2 final norm, 3 head, 10 * (layer + 1) + i for the block's tensors."""
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(values(1, model.model.embed_tokens.weight.shape, 1.0))
        model.model.norm.weight.copy_(values(2, model.model.norm.weight.shape, 0.5, 1.0))
        if not model.config.tie_word_embeddings:
            model.lm_head.weight.copy_(values(3, model.lm_head.weight.shape, 0.5))
        for l, layer in enumerate(model.model.layers):
            for i, name in enumerate(BLOCK):
                w = layer.get_submodule(name).weight
                norm = w.dim() == 1
                w.copy_(values(10 * (l + 1) + i, w.shape, 0.5 if norm else 0.25, 1.0 if norm else 0.0))


def emit(name, tensor):
    flat = tensor.detach().double().reshape(-1)
    stride = max(1, -(-flat.numel() // KEPT))
    stride += stride > 1 and stride % 2 == 0  # odd: walks through all columns
    kept = tensor.detach().reshape(-1)[::stride].tolist()
    print(f"tensor {name} {flat.numel()} {stride} {flat.norm().item():.9g}")
    for at in range(0, len(kept), 8):
        print(" ".join(f"{v:.9g}" for v in kept[at : at + 8]))


def run(name, c):
    config = LlamaConfig(
        hidden_size=c["hidden"], num_attention_heads=c["heads"], num_key_value_heads=c["kv_heads"],
        head_dim=c["head_dim"], intermediate_size=c["ffn"], vocab_size=c["vocab"], num_hidden_layers=LAYERS,
        rms_norm_eps=c["eps"], rope_parameters=c["rope"], max_position_embeddings=512,
        tie_word_embeddings=c["tied"], attn_implementation="eager", use_cache=False,
    )
    model = LlamaForCausalLM(config).float().eval()
    fill(model)
    rope = model.model.rotary_emb
    shape = (c["batch"], c["seq"])
    n = c["batch"] * c["seq"]
    tokens = torch.tensor((hashed(4, n) % np.uint64(c["vocab"])).astype(np.int64)).reshape(shape)
    targets = torch.tensor((hashed(5, n) % np.uint64(c["vocab"])).astype(np.int64))
    targets[::5] = -100  # rows without a target
    print("case", name)
    emit("inv_freq", rope.inv_freq)

    # the first layer by itself, with a gradient from the hash
    x = model.model.embed_tokens(tokens).detach().requires_grad_()
    positions = torch.arange(c["seq"])[None].expand(shape)
    mask = torch.full((c["seq"], c["seq"]), float("-inf")).triu(1)[None, None]
    y = model.model.layers[0](x, attention_mask=mask, position_ids=positions,
                              position_embeddings=rope(x, positions))
    y = y[0] if isinstance(y, tuple) else y
    y.backward(values(6, y.shape, 1.0))
    emit("layer.out", y)
    emit("layer.dx", x.grad)
    for part in BLOCK:
        emit("layer.d." + part, model.model.layers[0].get_submodule(part).weight.grad)
    model.zero_grad()

    # the whole model
    logits = model(input_ids=tokens).logits.reshape(n, -1)
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum", ignore_index=-100)
    (loss / n).backward()
    emit("loss", loss)
    emit("logits", logits[-1])
    emit("d.embed", model.model.embed_tokens.weight.grad)
    emit("d.norm", model.model.norm.weight.grad)
    if not c["tied"]:
        emit("d.head", model.lm_head.weight.grad)
    for l in range(LAYERS):
        for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj", "input_layernorm"):
            emit(f"d.{l}.{part}", model.model.layers[l].get_submodule(part).weight.grad)


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"# tools/golden_block.py with torch {torch.__version__}, transformers {transformers.__version__},", end=" ")
    print("f32, eager attention")
    for name, c in CASES.items():
        run(name, c)
    print("end")


if __name__ == "__main__":
    sys.exit(main())
