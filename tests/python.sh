#!/bin/bash
# Proves what the Python package promises: its extension, by itself; and, where a Python with torch, transformers and
# pytest is at hand (OFL_PYTHON names it; else python3), that models train to the same bits on every tier as in memory
# (python/tests).
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash python
[ -e "$bin/python/offload/_core.abi3.so" ] || { echo "the Python package is not built: python3-dev is missing, or this is a build with sanitizers"; verdict=1; exit 77; }

model=$work/model
limited "$bin/ofl-finetune" --preset tiny --data README.md --seq 16 --steps 1 --in-memory --out "$model"
wanted "a model"
limited python3 python/tests/core.py "$bin/python/offload/_core.abi3.so" "$work" "$model"
wanted "the extension"

python=${OFL_PYTHON:-python3}
if "$python" -c 'import torch, transformers, pytest' 2>/dev/null; then
    limited env PYTHONPATH="$bin/python" PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest -q -p no:cacheprovider --basetemp "$work/pytest" python/tests
    wanted "models"
else
    skipped+=("torch, transformers and pytest of $python")
fi
finish
