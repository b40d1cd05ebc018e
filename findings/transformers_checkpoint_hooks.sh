#!/bin/bash
# transformers 5.24.0: gradient checkpointing lies inside of a layer's hooks. Forward hooks of a decoder layer run once per
# training step; when backward computes the layer anew, hooks of the modules inside of it run a second time, and the
# layer's own do not. A guess would be that they do, as in 4.57.1, and as they do wherever torch.utils.checkpoint is given
# a module: whoever brings a layer's weights in by its forward pre-hook has none in the backward pass.
#
# Seen: 5.24.0: the layer 1 time, its MLP 2 times; 4.57.1: both 2 times. Exit 1 here if that changes; 77 where they can't
# be had.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >program.py <<'P'
import os
import sys

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import torch
import transformers

model = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
                             num_key_value_heads=1, max_position_embeddings=32))
model.train()
model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
counts = {"layer": 0, "mlp": 0}


def count(name):
    def hook(module, args):
        counts[name] += 1
    return hook


layer = model.model.layers[0]
layer.register_forward_pre_hook(count("layer"))
layer.mlp.register_forward_pre_hook(count("mlp"))
ids = torch.arange(8).view(1, 8)
model(input_ids=ids, labels=ids).loss.backward()
print(f"transformers {transformers.__version__}: hooks of the layer {counts['layer']}, of its MLP {counts['mlp']}")
raise SystemExit([counts["layer"], counts["mlp"]] != [int(n) for n in sys.argv[1:]])
P
status=0
for version in '5.24.0 1 2' '4.57.1 2 2'; do
    read -r release layer mlp <<<"$version"
    rm -rf env
    if ! python3 -m venv env >/dev/null 2>&1 ||
        ! env/bin/pip -q install "transformers==$release" torch==2.15.0 >/dev/null 2>&1; then
        echo "no transformers $release to be had"
        exit 77
    fi
    env/bin/python program.py "$layer" "$mlp" 2>/dev/null || status=1
done
exit $status
