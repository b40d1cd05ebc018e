#!/usr/bin/env python3
"""Loads a directory that ofl-finetune wrote in Hugging Face transformers, and compares losses.

    check_transformers.py DIR TEXT BUILD

The loss of one step's worth of tokens, before any update, as ofl-finetune reports it for DIR must be
the loss that transformers computes from the same files.
"""
import json
import subprocess
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

directory, text, build = sys.argv[1:4]
rows, length = 2, 64
model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(directory)
with open(text, encoding="utf-8") as f:
    ids = tokenizer.backend_tokenizer.encode(f.read()[:20000], add_special_tokens=False).ids
stream = torch.tensor(ids[: rows * length + 1])
with torch.no_grad():
    logits = model(stream[:-1].reshape(rows, length)).logits
theirs = torch.nn.functional.cross_entropy(logits.reshape(rows * length, -1), stream[1:]).item()
with tempfile.NamedTemporaryFile(suffix=".json") as report:
    subprocess.run(
        [f"{build}/ofl-finetune", "--model", directory, "--data", text, "--seq", str(length), "--batch", str(rows),
         "--steps", "1", "--lr", "0", "--in-memory", "--report", report.name],
        check=True, stderr=subprocess.DEVNULL)
    with open(report.name, encoding="utf-8") as f:
        ours = json.load(f)["loss"][0]
print(f"    transformers {theirs:.6f}, ofl-finetune {ours:.6f}")
sys.exit(abs(theirs - ours) > 1e-4)
