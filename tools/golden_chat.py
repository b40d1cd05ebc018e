#!/usr/bin/env python3
"""Makes tests/golden/chat_cases.json: conversations as tokens, and which of them are learned, by transformers 5.24.0
(jinja2 3.1.6, tokenizers 0.23.3), for templates in the manner of nine families with the small tokenizers of
tests/golden and the families' tokens added to them. tests/test_chat.c compares.

    python3 tools/golden_chat.py

run from the root of the repository. Templates without {% generation %} go by the rule of docs/chat.md, as
tools/chat_reference.py has it.
"""

import importlib.metadata
import json

from chat_reference import KINDS, TEMPLATE_KINDS, labels, load, tokenizer_json
from chat_templates import CONVERSATIONS, TEMPLATES, TOOL

OUT = "tests/golden/chat_cases.json"


def main():
    cases = []
    for name, template in TEMPLATES.items():
        kind = TEMPLATE_KINDS[name.split()[0]]
        tokenizer = load(kind, template)
        for talk, messages in CONVERSATIONS.items():
            tools = [TOOL] if talk == "tools" else None
            case = {"template": name, "kind": kind, "conversation": talk}
            try:
                case["ids"], case["learned"] = labels(tokenizer, messages, tools, "generation" in name)
                case["learned"] = "".join(map(str, case["learned"]))
            except Exception as error:  # what Jinja raises, or what the rule can't tell
                case["fails"] = type(error).__name__
            cases.append(case)
    added = {kind: {"base": KINDS[kind][0], "special": KINDS[kind][2], "added_tokens": tokenizer_json(kind)["added_tokens"]} for kind in KINDS}
    made = {name: importlib.metadata.version(name) for name in ("transformers", "jinja2", "tokenizers")}
    with open(OUT, "w", encoding="utf-8") as out:
        out.write('{"made_with": %s,\n"kinds": {\n' % json.dumps(made))
        out.write(",\n".join(f"{json.dumps(kind)}: {json.dumps(value)}" for kind, value in added.items()) + "},\n")
        out.write('"templates": {\n' + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in TEMPLATES.items()) + "},\n")
        out.write('"tool": %s,\n"conversations": %s,\n"cases": [\n' % (json.dumps(TOOL), json.dumps(CONVERSATIONS)))
        out.write(",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "]}\n")
    print(f"{OUT}: {len(cases)} cases, {sum('fails' in case for case in cases)} of which fail")


main()
