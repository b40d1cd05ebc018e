"""Commits: killed at any moment, a run goes on to the same bits."""
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import offload
from models import equal, model_of, train, weights

RUN = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import offload
from models import batches, model_of, weights
with offload.open(device=sys.argv[4], host="4M", nvme=sys.argv[2], keep=sys.argv[2] + "/kept") as ctx:
    model = offload.attach(model_of("llama"), ctx)
    opt = offload.AdamW(model, lr=1e-3, clip=1.0)
    first = int(ctx.resumed or 0)
    for step, ids in enumerate(batches(12)):
        if step < first:
            continue
        model(input_ids=ids, labels=ids).loss.backward()
        opt.step()
        ctx.commit(step + 1)
        print("step", step + 1, flush=True)
    ctx.commit_wait()
    torch.save(weights(model), sys.argv[3])
"""


def test_killed_runs_go_on(tmp_path):
    here = os.path.dirname(__file__)
    want = model_of("llama")
    with offload.open(device="64M", host="128M") as ctx:
        train(want, offload.AdamW(want, ctx, lr=1e-3, clip=1.0), 12)
    kills = 0
    for n in range(20):
        device = ("400K", "700K", "64M")[n % 3]
        p = subprocess.Popen([sys.executable, "-c", RUN, here, str(tmp_path), str(tmp_path / "end"), device],
                             stdout=subprocess.PIPE, text=True)
        if kills < 3:
            for _ in range(1 + n):
                if not p.stdout.readline():
                    break
            time.sleep(0.01 * n)
            p.send_signal(signal.SIGKILL)
        p.communicate()
        if p.returncode == -signal.SIGKILL:
            kills += 1
            continue
        assert p.returncode == 0
        break
    assert kills == 3
    assert equal(torch.load(tmp_path / "end"), weights(want))


def test_a_store_that_is_not_resumed_whole_is_refused(tmp_path):
    with offload.open(device="64M", host="32M", keep=tmp_path / "kept") as ctx:
        model = offload.attach(model_of("llama"), ctx)
        offload.AdamW(model)
        ctx.commit("a")
        assert ctx.commit_wait() == 1
    with offload.open(device="64M", host="32M", keep=tmp_path / "kept") as ctx:
        assert ctx.resumed == "a" and ctx.generation == 1
        with pytest.raises(offload.Error, match="elements"):
            offload.attach(_other(), ctx)


def _other():
    model = model_of("llama")
    model.model.embed_tokens = torch.nn.Embedding(7, 64)
    return model
