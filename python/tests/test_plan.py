"""Plans: the library's formulas, for models of torch; and the line of a run."""
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest
import torch
import transformers

import offload
from models import config, model_of

LARGE = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
         "intermediate_size": 14336, "vocab_size": 128256}


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_counts_what_the_model_has(name):
    model = model_of(name)
    plan = offload.plan(model, "rtx-4090", seq=16)
    assert plan["fits"] and plan["parameters"] == sum(p.numel() for p in model.parameters())
    assert plan["step_s"] > 0 and plan["machine"] == "rtx-4090" and json.loads(json.dumps(plan)) == plan
    assert "binds" in str(plan) and type(model).__name__ in str(plan)


def test_budgets_and_machines(tmp_path):
    llama = transformers.LlamaConfig(**LARGE)
    plan = offload.plan(llama, "rtx-4090", dtype=torch.bfloat16)
    assert 8.0e9 < plan["parameters"] < 8.1e9 and plan["nvme"]["budget"] == 0
    small = offload.plan(llama, {"like": "rtx-4090", "host_bytes": 64e9}, dtype=torch.bfloat16)
    assert small["nvme"]["optimizer"] > 0 and small["step_s"] > plan["step_s"] and small["drive_read_bytes"] > 0
    (tmp_path / "mine.json").write_text(json.dumps({"name": "mine", "like": "rtx-4090", "host_bytes": 64e9}))
    assert offload.plan(llama, tmp_path / "mine.json", dtype=torch.bfloat16) == {**small, "machine": "mine"}
    (tmp_path / "model").mkdir()
    llama.save_pretrained(tmp_path / "model")
    assert offload.plan(tmp_path / "model", "rtx-4090", dtype=torch.bfloat16) == plan
    decode = offload.plan(llama, "rtx-4090", work="decode", seq=1, positions=1000, dtype=torch.bfloat16, source=True)
    assert decode["tokens"] == 1 and decode["drive_write_bytes"] == 0
    tiny = offload.plan(llama, "rtx-4090", device="64K", dtype=torch.bfloat16)
    assert not tiny["fits"] and "device memory of 65536 bytes" in tiny["missing"] and "does not fit" in str(tiny)
    enough = offload.plan(llama, "rtx-4090", device=tiny["device"]["least"], dtype=torch.bfloat16)
    assert enough["fits"]


def test_what_is_not_known_is_said():
    for name, words in (("gpt2", "no intermediate_size"), ("olmoe", "460736 parameters")):
        with pytest.raises(offload.Error, match=words):
            offload.plan(config(name), "rtx-4090", seq=16)
    with pytest.raises(offload.Error, match="rtx-4090, rtx-5090"):
        offload.plan(config("llama"), "none")
    with pytest.raises(offload.Error, match="float32 and bfloat16, not torch.float16"):
        offload.plan(config("llama"), "rtx-4090", dtype=torch.float16)
    with pytest.raises(offload.Error, match="frobs"):
        offload.plan(config("llama"), {"like": "rtx-4090", "frobs": 1})
    with pytest.raises(ValueError, match="'train' or 'decode'"):
        offload.plan(config("llama"), "rtx-4090", work="play")


RUN = """
import sys, time
sys.path.insert(0, sys.argv[1])
import offload
from models import model_of, tight, train
model = model_of("llama")
with tight(model, sys.argv[2]) as ctx:
    opt = offload.AdamW(offload.attach(model, ctx), lr=1e-3)
    ctx.progress("load\\x1b[31med")
    train(model, opt, 6, after=lambda step: (opt.progress(2.5), time.sleep(0.1)))
print("end", file=sys.stderr)
"""


def test_progress(tmp_path):
    command = [sys.executable, "-c", RUN, os.path.dirname(__file__), str(tmp_path)]
    quiet = subprocess.run(command, capture_output=True, text=True, check=True)
    assert quiet.stdout == "" and quiet.stderr == "end\n"  # no terminal
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    with subprocess.Popen(command, stderr=its) as p:
        os.close(its)
        said = b""
        while True:
            try:
                more = os.read(ours, 65536)
            except OSError:  # its end
                break
            if not more:
                break
            said += more
    os.close(ours)
    assert p.returncode == 0
    lines = said.decode().replace("\x1b[K", "").split("\r")
    shown = [line for line in lines if "device" in line]
    assert shown[0].startswith("load?[31med | device ") and " of " in shown[0] and "host" in shown[0]
    assert any(line.startswith("step ") and "loss 2.5000" in line and "stall" in line for line in shown)
    assert 2 <= len(shown) <= 7 and said.decode().endswith("\r\nend\r\n")
