#!/bin/bash
# transformers 5.24.0, apply_chat_template(..., return_assistant_tokens_mask=True): where the chat template has no
# {% generation %} block, as those of most published models, the mask is all zeros, with a warning and no error. A guess
# would be that the mask follows the messages' roles, or that the call fails; who trains with it as labels learns
# nothing. With the block the same conversation has its answers marked.
#
# Seen: transformers 5.24.0: without the block 0 of 9 tokens are marked, with it 3 of 9. Exit 1 here if that changes; 77
# where the packages can't be had.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if ! python3 -m venv env >/dev/null 2>&1 || ! env/bin/pip -q install transformers==5.24.0 tokenizers==0.23.3 jinja2==3.1.6 >/dev/null 2>&1; then
    echo 'no transformers 5.24.0 to be had'
    exit 77
fi
cat >program.py <<'P'
import os

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers

WORDS = ["<user>", "<model>", "<end>", "what", "is", "it", "a", "fine", "day"]
model = tokenizers.Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<end>"))
model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=model)
TALK = [{"role": "user", "content": "what is it"}, {"role": "model", "content": "a fine day"}]
PLAIN = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}<end>"
MARKED = ("{% for m in messages %}<{{ m.role }}> {% if m.role == 'model' %}{% generation %}{{ m.content }}"
          "{% endgeneration %}{% else %}{{ m.content }}{% endif %} {% endfor %}<end>")


def marked(template):
    out = tokenizer.apply_chat_template(TALK, chat_template=template, return_dict=True, tokenize=True,
                                        return_assistant_tokens_mask=True)
    return sum(out["assistant_masks"]), len(out["input_ids"])


seen = marked(PLAIN), marked(MARKED)
print(f"transformers {transformers.__version__}: marked {seen[0][0]} of {seen[0][1]} tokens without a generation block, "
      f"{seen[1][0]} of {seen[1][1]} with one")
raise SystemExit(seen != ((0, 9), (3, 9)))
P
env/bin/python program.py
