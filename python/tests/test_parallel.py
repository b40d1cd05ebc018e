"""Two processes over gloo give the bits of one process that accumulates twice as much."""
import os
import socket
import subprocess
import sys

import pytest
import torch
import transformers

import offload
from models import batches, config, equal, model_of, tight, train, weights

EXAMPLE = os.path.join(os.path.dirname(__file__), "..", "examples", "parallel.py")


def run(directory, out, size, scratch):
    """All processes; what each has said."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    both = [subprocess.Popen([sys.executable, EXAMPLE, str(directory), str(out), "4", str(scratch)], stdout=subprocess.PIPE,
                             text=True, env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1",
                                             "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}) for rank in range(size)]
    said = [p.communicate(timeout=120)[0] for p in both]
    assert [p.returncode for p in both] == [0] * size
    return [[line.partition(" step ")[2] for line in text.splitlines()] for text in said]


def test_two_processes(tmp_path):
    torch.manual_seed(1)
    large = config("llama")
    large.vocab_size = 8192  # a gradient of two pieces
    transformers.AutoModelForCausalLM.from_config(large).save_pretrained(tmp_path / "in")
    alone = run(tmp_path / "in", tmp_path / "one", 1, tmp_path)
    two = run(tmp_path / "in", tmp_path / "two", 2, tmp_path)
    assert len(alone[0]) == 4 and two == alone * 2
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()
    assert (tmp_path / "one/model.safetensors").read_bytes() != (tmp_path / "in/model.safetensors").read_bytes()


@pytest.mark.parametrize("offloaded", [True, False])
def test_pieces(offloaded, tmp_path):
    """Each gradient in pieces of a MiB at most, in the order of the parameters; what is left in them counts."""
    plain, model = model_of("gpt2"), model_of("gpt2")
    pieces = []

    def twice(piece):
        pieces.append(piece.numel())
        piece.mul_(2)

    ids = batches(1)[0]
    with tight(model, tmp_path) as ctx, offload.open(device="64M", host="64M") as large:
        if offloaded:
            offload.attach(model, ctx)
        opt, other = offload.AdamW(model, ctx, reduce=twice), offload.AdamW(plain, large)
        model(input_ids=ids, labels=ids).loss.backward()
        (2 * plain(input_ids=ids, labels=ids).loss).backward()
        opt.step()
        other.step()
        assert opt.norm() == other.norm()
        assert pieces == [p.numel() for p in plain.parameters()]
        assert equal(weights(model), weights(plain))


def test_a_failure_updates_nothing(tmp_path):
    model, plain = model_of("llama"), model_of("llama")
    before = weights(model)
    calls = []

    def fails(piece):
        calls.append(piece.numel())
        piece.zero_()
        if len(calls) == 3:
            raise ConnectionError("the other one is gone")

    with tight(model, tmp_path) as ctx, offload.open(device="64M", host="64M") as large:
        offload.attach(model, ctx)
        opt = offload.AdamW(model, lr=1e-3, reduce=fails)
        ids = batches(1)[0]
        model(input_ids=ids, labels=ids).loss.backward()
        with pytest.raises(offload.Error, match="nothing is updated") as e:
            opt.step()
        assert isinstance(e.value.__cause__, ConnectionError) and len(calls) == 3
        assert equal(weights(model), before)
        # Gradients are made anew, and the step is the first one.
        opt.zero_grad()
        opt.core_optimizer.reduce(None)
        assert train(model, opt, 3) == train(plain, offload.AdamW(plain, large, lr=1e-3), 3)
        assert equal(weights(model), weights(plain))
