"""Two scripts: at most five changed lines, and the same losses."""
import difflib
import os
import subprocess
import sys

from models import model_of

EXAMPLES = os.path.join(os.path.dirname(__file__), "..", "examples")


def lines(name):
    with open(os.path.join(EXAMPLES, name), encoding="utf-8") as f:
        return f.read().splitlines()


def test_five_lines():
    diff = [d for d in difflib.ndiff(lines("plain.py"), lines("offloaded.py")) if d[0] == "+"]
    assert len(diff) == 5, diff


def test_same_losses(tmp_path):
    model_of("llama").save_pretrained(tmp_path / "in")
    said = []
    for name in ("plain.py", "offloaded.py"):
        said.append(subprocess.run([sys.executable, os.path.join(EXAMPLES, name), tmp_path / "in", tmp_path / name, "6",
                                    tmp_path], check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert said[0] == said[1] and said[0].count("loss") == 6
    assert (tmp_path / "offloaded.py" / "model.safetensors").stat().st_size > 100000
