"""What the labels of a conversation have to be: those of transformers where the template marks what the assistant
says, else by the rule of docs/chat.md, written a second time. Used by golden_chat.py and check_chat.py."""

import copy
import json
import tempfile

from transformers import PreTrainedTokenizerFast

# base: of tests/golden; tokens that are added to it, with flags if they have any
KINDS = {
    "llama3": ("llama3", ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
               {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}),
    "chatml": ("gpt2", ["<|im_start|>", "<|im_end|>", ("<think>", {"special": False}), ("</think>", {"special": False})],
               {"eos_token": "<|im_end|>"}),
    "mistral": ("llama2", ["[INST]", "[/INST]"], {"bos_token": "<s>", "eos_token": "</s>"}),
    "gemma": ("first", ["<start_of_turn>", "<end_of_turn>"], {"bos_token": "<s>", "eos_token": "<end_of_turn>"}),
    "phi3": ("llama2", [(token, {"rstrip": True}) for token in ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")],
             {"bos_token": "<s>", "eos_token": "</s>"}),
    "granite": ("gpt2", ["<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"], {"eos_token": "<|end_of_text|>"}),
    "olmo2": ("gpt2", [], {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}),
}

# Of templates: the tokenizer that goes with them
TEMPLATE_KINDS = {"llama3": "llama3", "qwen2": "chatml", "qwen3": "chatml", "smollm3": "chatml", "mistral": "mistral",
                  "gemma": "gemma", "phi3": "phi3", "granite": "granite", "olmo2": "olmo2"}


def tokenizer_json(kind, folder="tests/golden"):
    """The tokenizer of a kind, as tokenizer.json has it."""
    base, more, _ = KINDS[kind]
    with open(f"{folder}/tokenizer_{base}.json", encoding="utf-8") as file:
        data = json.load(file)
    used = list(data["model"]["vocab"].values()) + [token["id"] for token in data["added_tokens"]]
    for i, token in enumerate(more):
        name, flags = token if isinstance(token, tuple) else (token, {})
        data["added_tokens"].append({"id": max(used) + 1 + i, "content": name, "single_word": False, "lstrip": False,
                                     "rstrip": False, "normalized": False, "special": True} | flags)
    return data


def load(kind, template, folder="tests/golden"):
    """What transformers makes of the tokenizer and the template."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(tokenizer_json(kind, folder), file)
        file.flush()
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=file.name, **KINDS[kind][2])
    tokenizer.chat_template = template
    return tokenizer


def text_of(tokenizer, messages, tools, ask=False):
    return tokenizer.apply_chat_template(copy.deepcopy(messages), tools=tools, tokenize=False, add_generation_prompt=ask)


def begin(tokenizer, messages, tools, i, text):
    """Where message i begins to be the assistant's own."""
    asked = text_of(tokenizer, messages[:i], tools, True)
    at = 0
    while at < min(len(text), len(asked)) and text[at] == asked[at]:
        at += 1
    if at < len(asked):
        before = text_of(tokenizer, messages[:i], tools)
        if not text.startswith(before) or at < len(before):
            raise ValueError("no place")
    return at


def spans_by_rule(tokenizer, messages, tools, text, ids, offsets):
    special = set(tokenizer.added_tokens_decoder)
    special = {i for i in special if tokenizer.added_tokens_decoder[i].special}
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start = begin(tokenizer, messages, tools, i, text)
        end = text_of(tokenizer, messages[:i + 1], tools)
        if text.startswith(end):
            stop = len(end)
            while stop > start and text[stop - 1] in " \t\r\n":
                stop -= 1
        else:
            stop = next((b for token, (a, b) in zip(ids, offsets) if a >= start and token in special), None)
            if stop is None:
                raise ValueError("no end")
        spans.append((start, stop))
    return spans


def labels(tokenizer, messages, tools, marked):
    """ids, and 1 for those that are learned."""
    if marked:
        out = tokenizer.apply_chat_template(copy.deepcopy(messages), tools=tools, return_dict=True, return_assistant_tokens_mask=True)
        return out["input_ids"], out["assistant_masks"]
    text = text_of(tokenizer, messages, tools)
    out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = out["input_ids"], out["offset_mapping"]
    spans = spans_by_rule(tokenizer, messages, tools, text, ids, offsets)
    return ids, [int(any(a < stop and b > start for start, stop in spans)) for a, b in offsets]
