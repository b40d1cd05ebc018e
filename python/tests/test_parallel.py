"""Two processes over gloo give the bits of one process that accumulates twice as much."""
import os
import socket
import subprocess
import sys

import torch

import offload
from models import equal, model_of, tight, train, weights

RUN = """
import sys
import torch
import torch.distributed as dist
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import offload
from models import batches, model_of, tight, weights
rank = int(sys.argv[3])
dist.init_process_group("gloo", init_method="tcp://127.0.0.1:" + sys.argv[4], rank=rank, world_size=2)
model = model_of("llama")
with tight(model, sys.argv[2]) as ctx:
    opt = offload.AdamW(offload.attach(model, ctx), lr=1e-3, clip=1.0, reduce=dist.all_reduce)
    for ids in batches(8)[rank::2]:
        (model(input_ids=ids, labels=ids).loss / 2).backward()
        opt.step()
    torch.save(weights(model), sys.argv[2] + "/end" + sys.argv[3])
dist.destroy_process_group()
"""


def test_two_processes(tmp_path):
    want = model_of("llama")
    with tight(want, tmp_path) as ctx:
        train(offload.attach(want, ctx), offload.AdamW(want, lr=1e-3, clip=1.0), 4, accum=2)
        want = weights(want)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    both = [subprocess.Popen([sys.executable, "-c", RUN, os.path.dirname(__file__), str(tmp_path), str(rank), port])
            for rank in range(2)]
    assert [p.wait(timeout=100) for p in both] == [0, 0]
    for rank in range(2):
        assert equal(torch.load(tmp_path / f"end{rank}"), want)
