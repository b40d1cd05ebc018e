#!/bin/bash
# transformers 5.24.0 reads a Gemma 2 from a GGUF file, head size included, but leaves query_pre_attn_scalar at the
# default of its configuration, 256: the format has no key for it, and nothing derives it. Models whose scalar is another
# one (the 27B's heads have 128, its scalar is 144) compute other scores than from their own directory, in silence. A
# guess would be that a model that loads without a word has the scale of its heads, or that the file says it.
#
# Seen: transformers 5.24.0, gguf 0.19.0: head_dim 32, query_pre_attn_scalar 256. Exit 1 here if that changes; 77 where
# it can't be had.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if ! python3 -m venv env >/dev/null 2>&1 ||
    ! env/bin/pip -q install transformers==5.24.0 gguf==0.19.0 torch==2.15.0 >/dev/null 2>&1; then
    echo 'no transformers 5.24.0 to be had'
    exit 77
fi
cat >program.py <<'P'
import os

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import gguf
import numpy
import transformers

w = gguf.GGUFWriter("small.gguf", "gemma2")
w.add_context_length(64)
w.add_embedding_length(64)
w.add_block_count(1)
w.add_feed_forward_length(64)
w.add_head_count(2)
w.add_head_count_kv(1)
w.add_key_length(32)
w.add_value_length(32)
w.add_layer_norm_rms_eps(1e-6)
w.add_attn_logit_softcapping(50.0)
w.add_final_logit_softcapping(30.0)
w.add_sliding_window(32)
w.add_tensor("token_embd.weight", numpy.zeros((4, 64), numpy.float32))
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
c = transformers.AutoConfig.from_pretrained(".", gguf_file="small.gguf")
print(f"transformers {transformers.__version__}: head_dim {c.head_dim}, query_pre_attn_scalar {c.query_pre_attn_scalar}")
raise SystemExit((c.head_dim, c.query_pre_attn_scalar) != (32, 256))
P
env/bin/python program.py
