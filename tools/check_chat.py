#!/usr/bin/env python3
"""Compares the labels of ofl-finetune with those of transformers, and prints a table.

    python3 tools/check_chat.py BUILD [TEMPLATES]

BUILD is the directory with ofl-finetune. Without TEMPLATES the templates of tools/chat_templates.py are tried;
TEMPLATES is a directory of *.jinja files, for example trl/chat_templates of the package trl (1.16.0), whose names
begin with a family: llama3, qwen2_5, qwen3, gemma, phi3, ... Tokenizers are the small ones of tests/golden with the
family's tokens. Labels are those of apply_chat_template(..., return_assistant_tokens_mask=True) where a template has
{% generation %}, else the rule of docs/chat.md. Needs transformers 5.24 with jinja2. Exit status 1: one differs.
"""

import glob
import json
import os
import re
import subprocess
import sys
import tempfile

from chat_reference import KINDS, TEMPLATE_KINDS, labels, load, tokenizer_json
from chat_templates import CONVERSATIONS, TEMPLATES, TOOL

# Of names of files: the first that fits says which tokenizer goes with them
FILES = [("llama3", "llama3"), ("qwen|smollm|lfm|deepseek|glm|gptoss|nemotron|cohere|muse|llava|idefics|smolvlm", "chatml"),
         ("mistral|ministral", "mistral"), ("gemma|diffusion", "gemma"), ("phi", "phi3"), ("granite", "granite"), ("olmo", "olmo2")]


def templates(folder):
    if not folder:
        return [(name, TEMPLATE_KINDS[name.split()[0]], text) for name, text in TEMPLATES.items()]
    found = []
    for path in sorted(glob.glob(folder + "/*.jinja")):
        name = os.path.basename(path)[:-6]
        with open(path, encoding="utf-8") as file:
            found.append((name, next((kind for words, kind in FILES if re.match(words, name)), "chatml"), file.read()))
    return found


def model(folder, kind, template):
    """A directory that ofl-finetune takes for a model, as far as data needs it."""
    data = tokenizer_json(kind)
    vocab = 1 + max(list(data["model"]["vocab"].values()) + [token["id"] for token in data["added_tokens"]])
    files = {"tokenizer.json": data, "tokenizer_config.json": KINDS[kind][2] | {"chat_template": template},
             "config.json": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 32,
                             "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": vocab, "max_position_embeddings": 8192}}
    for name, content in files.items():
        with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
            json.dump(content, file)


def ours(build, folder, messages, tools):
    with open(folder + "/one.jsonl", "w", encoding="utf-8") as file:
        json.dump({"messages": messages} | ({"tools": tools} if tools else {}), file)
    done = subprocess.run([build + "/ofl-finetune", "--model", folder, "--data", folder + "/one.jsonl", "--seq", "8000",
                           "--show-data", "1"], capture_output=True, check=False)
    if done.returncode:
        return None, done.stderr.decode().strip()
    row = json.loads(done.stdout)
    return (row["ids"], row["learned"]), ""


def main():
    build, folder = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    wrong = 0
    print(f"{'template':34} {'labels by':14} {'equal':>7} {'refused':>8} {'raised by both':>15} {'tokens':>7} {'learned':>8}")
    for name, kind, template in templates(folder):
        marked = re.search(r"\{%[-+]?\s*generation", template) is not None
        equal, refused, both, tokens, learned, notes = 0, 0, 0, 0, 0, set()
        tokenizer = load(kind, template)
        with tempfile.TemporaryDirectory() as work:
            model(work, kind, template)
            for talk, messages in CONVERSATIONS.items():
                tools = [TOOL] if talk == "tools" else None
                got, why = ours(build, work, messages, tools)
                try:
                    want = labels(tokenizer, messages, tools, marked)
                except Exception as error:
                    want = f"{type(error).__name__}: {error}"
                if isinstance(want, str):
                    both += got is None
                    if got is not None:
                        notes.add(f"{talk}: reference fails, ours does not: {want}")
                elif got is None and "nothing to learn" in why and sum(want[1][1:]) == 0:
                    equal += 1
                elif got is None:
                    refused += 1
                    notes.add(why.split("line 1: ")[-1][:150])
                elif list(got[0]) != list(want[0]) or list(got[1])[1:] != list(want[1])[1:]:
                    notes.add(f"{talk}: other {'tokens' if list(got[0]) != list(want[0]) else 'labels'}")
                    wrong += 1
                else:
                    equal, tokens, learned = equal + 1, tokens + len(want[0]), learned + sum(want[1])
        print(f"{name:34} {'transformers' if marked else 'rule':14} {equal:7} {refused:8} {both:15} {tokens:7} {learned:8}")
        for note in sorted(notes):
            print("    " + note)
    print(f"{wrong} differ")
    return wrong > 0


sys.exit(main())
