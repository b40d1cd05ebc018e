"""Memory is that of the budgets, and steps take none that they don't give back."""
import os
import subprocess
import sys

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


def test_peak_is_that_of_the_budgets(tmp_path):
    """A model whose state is 16 times the budgets; python/bench/memory.py has larger and longer ones."""
    bench = os.path.join(os.path.dirname(__file__), "..", "bench", "memory.py")
    out = subprocess.run([sys.executable, bench, "--dir", str(tmp_path), "--only", "small"], stdout=subprocess.PIPE, text=True)
    assert out.returncode == 0, out.stdout
    assert "state 6" in out.stdout and "in budgets of 40 MiB" in out.stdout, out.stdout
