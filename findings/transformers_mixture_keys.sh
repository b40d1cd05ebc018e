#!/bin/bash
# transformers 5.24.0: the keys of a Mixtral's state_dict are not those of the file that save_pretrained writes. In memory
# all experts of a layer are two tensors (mlp.experts.gate_up_proj, down_proj); in the file each expert has three of its
# own, under the names of older releases (block_sparse_moe.experts.0.w1). A guess would be that a file's header and the
# state_dict of the model that wrote it agree, as they did before, so that one can be used to find tensors in the other.
#
# Seen: transformers 5.24.0, three experts: 2 tensors in memory, 9 in the file. Exit 1 here if that changes; 77 where it
# can't be had.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if ! python3 -m venv env >/dev/null 2>&1 ||
    ! env/bin/pip -q install transformers==5.24.0 torch==2.15.0 >/dev/null 2>&1; then
    echo 'no transformers 5.24.0 to be had'
    exit 77
fi
cat >program.py <<'P'
import os

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import transformers
from safetensors import safe_open

model = transformers.MixtralForCausalLM(
    transformers.MixtralConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                               num_attention_heads=2, num_key_value_heads=1, num_local_experts=3,
                               num_experts_per_tok=2, max_position_embeddings=32))
inside = sorted(k for k in model.state_dict() if "experts" in k)
model.save_pretrained("saved")
with safe_open("saved/model.safetensors", "pt") as f:
    stored = sorted(k for k in f.keys() if "experts" in k)
print(f"transformers {transformers.__version__}: in memory {len(inside)}, {inside[0]}; in the file {len(stored)}, {stored[0]}")
raise SystemExit((len(inside), len(stored), "block_sparse_moe" in stored[0]) != (2, 9, True))
P
env/bin/python program.py 2>/dev/null
