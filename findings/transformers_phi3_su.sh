#!/bin/bash
# transformers 5.24.0: a Phi-3 configuration whose long factors are of the type "su", as the first ones of the family were
# published, is not read, although the code renames "su" to "longrope": the check for a longrope's
# original_max_position_embeddings comes before the value at the top level has been taken over under that name. The same
# configuration with "longrope" is read. A guess would be that the newer release reads all older spellings it knows of.
#
# Seen: transformers 5.24.0: su: KeyError; longrope: read. Exit 1 here if that changes; 77 where it can't be had.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if ! python3 -m venv env >/dev/null 2>&1 || ! env/bin/pip -q install transformers==5.24.0 >/dev/null 2>&1; then
    echo 'no transformers 5.24.0 to be had'
    exit 77
fi
cat >program.py <<'P'
import os

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import transformers


def read(kind):
    factors = [1.0] * 8
    try:
        transformers.Phi3Config(hidden_size=64, num_attention_heads=4, max_position_embeddings=256,
                                original_max_position_embeddings=64,
                                rope_scaling={"type": kind, "short_factor": factors, "long_factor": factors})
    except Exception as e:  # noqa: BLE001
        return type(e).__name__
    return "read"


seen = read("su"), read("longrope")
print(f"transformers {transformers.__version__}: su: {seen[0]}; longrope: {seen[1]}")
raise SystemExit(seen != ("KeyError", "read"))
P
env/bin/python program.py
