#!/usr/bin/env python3
"""Writes tests/golden/families.json: what transformers gives for small models of every family.

    python3 tools/golden_families.py >tests/golden/families.json

The checkpoints are some of tools/check_families.py; weights are not stored: both sides make them from a hash of their
names, as small multiples of powers of two. Kept of each: config.json, the losses and gradient norms of 8 training steps,
every 8th logit behind 200 tokens, 64 tokens of greedy text. tests/test_families.c reads the file. Needs torch and
transformers.
"""
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import check_families as families  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from golden_block import hashed, values  # noqa: E402

KEPT = ["llama-older", "llama-bias", "llama-yarn-mscale", "llama-linear", "mistral", "ministral", "ministral3", "qwen2-tied",
        "qwen2-older", "qwen3-bias", "phi3-long", "phi3-near", "granite-bias", "olmo2-older", "smollm3-window", "smollm3-older",
        "gemma2", "gemma3", "gemma3-older", "mixtral", "qwen3_moe-dense", "olmoe",
        "gpt_oss-older"]
CLOSE = 1e-4  # of two logits: what rounding might turn round


def stream_of(name):
    """FNV-1a, 32 bits."""
    h = 0x811C9DC5
    for byte in name.encode():
        h = (h ^ byte) * 0x01000193 & 0xFFFFFFFF
    return h


def fill(directory):
    """By the names in the file. Norms lie around what makes them 1: 0 where it is added to them."""
    path = f"{directory}/model.safetensors"
    tensors = load_file(path)
    one = 0.0 if "gemma" in directory else 1.0
    for name, t in tensors.items():
        scale = 1.0 if "embed_tokens" in name else 0.25
        t.copy_(values(stream_of(name), t.shape, scale, one if name.endswith("norm.weight") else 0.0))
    save_file(tensors, path, metadata={"format": "pt"})


def tokens(stream, n):
    return torch.tensor((hashed(stream, n) % 250).astype("int64"))


def run(name, case, work):
    directory = os.path.join(work, name)
    families.make(directory, case)
    with open(f"{directory}/config.json", encoding="utf-8") as f:
        config = json.load(f)
    fill(directory)
    trained = {}
    if case[0] not in families.GENERATE_ONLY:
        losses, norms = families.theirs_trained(directory, tokens(5, families.STEPS * families.BATCH * families.SEQ + 1))
        trained = dict(losses=[float(f"{v:.8g}") for v in losses], norms=[float(f"{v:.8g}") for v in norms])
    model = families.load(directory).eval()
    prompt = tokens(6, families.PROMPT)
    with torch.no_grad():
        logits = model(prompt[None]).logits[0, -1]
        y = model.generate(input_ids=prompt[None], attention_mask=torch.ones_like(prompt[None]), max_new_tokens=families.TEXT,
                           do_sample=False, output_logits=True, return_dict_in_generate=True, eos_token_id=-1)
    top = torch.cat(y.logits).topk(2).values
    if (top[:, 0] - top[:, 1]).min().item() < CLOSE:
        raise RuntimeError(f"{name}: two tokens are equally likely: change the model a little")
    return dict(name=name, config=config, **trained, logits=[float(f"{v:.7g}") for v in logits[::8].tolist()],
                tokens=y.sequences[0, families.PROMPT:].tolist())


def main():
    torch.set_num_threads(1)
    known = {n: c for family in families.CASES.values() for n, c in family.items()}
    with tempfile.TemporaryDirectory() as work:
        cases = [run(name, known[name], work) for name in KEPT]
    made = f"tools/golden_families.py with torch {torch.__version__}, transformers {transformers.__version__}, f32, eager attention"
    print('{"made_by":', json.dumps(made) + ', "cases": [')
    print(",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
