"""Steps take no memory that they don't give back."""
import os

import offload
from models import model_of, tight, train


def resident():
    with open("/proc/self/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_no_growth(tmp_path):
    model = model_of("llama")
    seen = {}
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        train(model, offload.AdamW(model, lr=1e-3), 200, after=lambda step: seen.update({step: resident()}))
    assert seen[199] - seen[49] < 4 << 20
