#!/usr/bin/env python3
"""Writes tests/golden/lora.json: what PEFT gives for adapters of small models.

    python3 tools/golden_lora.py >tests/golden/lora.json

The checkpoints are some of tools/check_families.py; weights and adapters are not stored: both sides make them from a
hash of their names (tools/golden_families.py). Kept of each: config.json, the adapter_config.json that PEFT has written,
names and shapes of the first layer's tensors in its file, losses and gradient norms of 8 steps, the loss after them
without dropout. tests/test_lora.c reads the file. Needs torch, transformers and peft.
"""
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import check_families as families  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from golden_block import values  # noqa: E402
from golden_families import fill, stream_of, tokens  # noqa: E402
from safetensors import safe_open  # noqa: E402

ALL = "all-linear"
CASES = {
    "llama": ("llama-older", dict(r=8, lora_alpha=16, target_modules=ALL)),
    "qwen3 rslora": ("qwen3-bias", dict(r=4, lora_alpha=3, target_modules=["q_proj", "o_proj", "down_proj"], use_rslora=True)),
    "phi3": ("phi3-near", dict(r=8, lora_alpha=16, target_modules=ALL)),
    "phi3 dora": ("phi3-near", dict(r=4, lora_alpha=8, target_modules=["qkv_proj", "down_proj"], use_dora=True)),
    "gemma2 dora": ("gemma2", dict(r=8, lora_alpha=16, target_modules=ALL, use_dora=True)),
}
PREFIX = "base_model.model.model.layers.0."


def file_name(name):
    return name.replace(".default", "").removesuffix(".weight" if "magnitude" in name else "")


def fill_adapter(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            name = file_name(name)
            if "lora_A" in name:
                p.copy_(values(stream_of(name), p.shape, 0.25))
            elif "lora_B" in name:
                p.copy_(values(stream_of(name), p.shape, 0.0625))
            elif "magnitude" in name:
                p.copy_(values(stream_of(name), p.shape, 0.25, 1.0))


def loss_of(model, ids):
    count = families.BATCH * families.SEQ
    x = ids[:count].reshape(families.BATCH, families.SEQ)
    return torch.nn.functional.cross_entropy(model(input_ids=x).logits.reshape(count, -1), ids[1:count + 1])


def train(model, ids):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    losses, norms = [], []
    for step in range(families.STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, ids[step * families.BATCH * families.SEQ:])
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1e9).item())
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return losses, norms, loss_of(model.eval(), ids).item()


def run(name, base, settings, work):
    directory, adapter = os.path.join(work, name), os.path.join(work, name + " adapter")
    known = {n: c for family in families.CASES.values() for n, c in family.items()}
    families.make(directory, known[base])
    with open(f"{directory}/config.json", encoding="utf-8") as f:
        config = json.load(f)
    base_model = families.load(directory)
    fill(base_model)
    model = peft.get_peft_model(base_model, peft.LoraConfig(task_type="CAUSAL_LM", **settings)).train()
    fill_adapter(model)
    model.save_pretrained(adapter)
    with open(f"{adapter}/adapter_config.json", encoding="utf-8") as f:
        adapter_config = json.load(f)
    adapter_config.update(base_model_name_or_path=None, target_modules=sorted(adapter_config["target_modules"]))
    with safe_open(f"{adapter}/adapter_model.safetensors", "pt") as f:
        shapes = {k: list(f.get_slice(k).get_shape()) for k in sorted(f.keys()) if k.startswith(PREFIX)}
        if len(f.keys()) != len(shapes) * config["num_hidden_layers"]:
            raise RuntimeError(f"{name}: layers are not alike")
    losses, norms, after = train(model, tokens(5, families.STEPS * families.BATCH * families.SEQ + 1))
    return dict(name=name, config=config, adapter_config=adapter_config, tensors=shapes, losses=[float(f"{v:.8g}") for v in losses],
                norms=[float(f"{v:.8g}") for v in norms], after=float(f"{after:.8g}"))


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        cases = [run(name, *case, work) for name, case in CASES.items()]
    made = (f"tools/golden_lora.py with torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}, "
            "f32, eager attention")
    print('{"made_by":', json.dumps(made) + ', "cases": [')
    print(",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
