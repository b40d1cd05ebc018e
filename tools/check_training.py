#!/usr/bin/env python3
"""Trains a small untied, sharded F16 checkpoint with grouped queries in PyTorch and in ofl-finetune.

    check_training.py TOKENIZER_DIR TEXT BUILD WORK_DIR

Odd lengths, several micro-batches, clipping and weight decay; small budgets in ofl-finetune. Losses must
agree to 1e-4, gradient norms to 1e-4 of their size.
"""
import json
import os
import shutil
import subprocess
import sys

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

tokenizer_dir, text, build, work = sys.argv[1:5]
length, rows, accum, steps = 33, 2, 3, 8
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=2048, hidden_size=96, intermediate_size=200, num_hidden_layers=3, num_attention_heads=6,
    num_key_value_heads=2, tie_word_embeddings=False, max_position_embeddings=256, rms_norm_eps=1e-5,
    bos_token_id=1, eos_token_id=2, attn_implementation="eager")
model = LlamaForCausalLM(config).to(torch.float16)
directory = os.path.join(work, "untied")
model.save_pretrained(directory, max_shard_size="300KB")
for name in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(os.path.join(tokenizer_dir, name), directory)
model = model.to(torch.float32)
with open(text, encoding="utf-8") as f:
    ids = AutoTokenizer.from_pretrained(directory).backend_tokenizer.encode(f.read()[:60000], add_special_tokens=False).ids
ids = torch.tensor(ids)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
losses, norms, at = [], [], 0
for _ in range(steps):
    optimizer.zero_grad()
    total = 0.0
    for _ in range(accum):
        count = rows * length
        x = ids[at : at + count].reshape(rows, length)
        y = ids[at + 1 : at + count + 1]
        at += count
        loss = torch.nn.functional.cross_entropy(model(x).logits.reshape(count, -1), y) / accum
        loss.backward()
        total += loss.item()
    norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5).item())
    optimizer.step()
    losses.append(total)
report = os.path.join(work, "untied.json")
subprocess.run(
    [f"{build}/ofl-finetune", "--model", directory, "--data", text, "--seq", str(length), "--batch", str(rows),
     "--accum", str(accum), "--steps", str(steps), "--lr", "1e-3", "--weight-decay", "0.1", "--decay-all", "--clip", "0.5",
     "--device-mem", "4M", "--host-mem", "2M", "--nvme", work, "--report", report],
    check=True, stderr=subprocess.DEVNULL)
with open(report, encoding="utf-8") as f:
    ours = json.load(f)
worst_loss = max(abs(a - b) for a, b in zip(losses, ours["loss"], strict=True))
worst_norm = max(abs(a - b) / a for a, b in zip(norms, ours["grad_norm"], strict=True))
print(f"    largest difference: loss {worst_loss:.1e}, norm {worst_norm:.1e} of its size")
sys.exit(worst_loss > 1e-4 or worst_norm > 1e-4)
