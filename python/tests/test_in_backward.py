"""Updates under backward: the bits of updates behind it, begun before the step, and what they can't be."""
import time

import pytest
import torch

import offload
from models import NAMES, batches, equal, model_of, tight, train, weights
from test_groups import groups_of, run


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits(name, dtype, tmp_path):
    def trained(in_backward):
        model = model_of(name, dtype)
        with tight(model, tmp_path) as ctx:
            offload.attach(model, ctx)
            opt = offload.AdamW(model, lr=1e-3, in_backward=in_backward)
            losses = train(model, opt, 8)
            return losses, opt.norm(), weights(model), opt.count

    one, other = trained(False), trained(True)
    assert one[0] == other[0] and one[1] == other[1] and equal(one[2], other[2]) and one[3] == other[3] == 8


def test_groups_and_schedulers(tmp_path):
    """Rates are those at backward, which schedulers change behind the step."""
    plain, model = model_of("llama"), model_of("llama")
    with tight(model, tmp_path) as ctx, offload.open(device="64M", host="128M") as large:
        offload.attach(model, ctx)
        one = offload.AdamW(groups_of(model), lr=1e-3, in_backward=True)
        other = offload.AdamW(groups_of(plain), large, lr=1e-3)
        assert run(model, one) == run(plain, other)
        assert equal(weights(model), weights(plain))


@pytest.mark.parametrize("in_backward", [True, False])
def test_updates_begin_before_the_step(in_backward, tmp_path):
    """It can fail: without in_backward none has."""
    model = model_of("llama")
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        opt = offload.AdamW(model, lr=1e-3, in_backward=in_backward)
        ids = batches(1)[0]
        model(input_ids=ids, labels=ids).loss.backward()
        count, end = len(opt.parts), time.monotonic() + 20
        while in_backward and ctx.stats()["updates"] < count and time.monotonic() < end:
            time.sleep(0.01)
        assert ctx.stats()["updates"] == (count if in_backward else 0)
        opt.step()
        assert opt.count == 1


def test_a_second_backward_is_refused(tmp_path):
    model = model_of("llama")
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        opt = offload.AdamW(model, lr=1e-3, in_backward=True)
        ids = batches(1)[0]
        model(input_ids=ids, labels=ids).loss.backward()
        with pytest.raises(offload.Error, match="a second backward before step"):
            model(input_ids=ids, labels=ids).loss.backward()
        opt.zero_grad()  # the first one's step was made
        assert opt.count == 1
        assert len(train(model, opt, 2)) == 2 and opt.count == 3


def test_what_it_goes_without(tmp_path):
    model = model_of("llama")
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        for more in ({"clip": 1.0}, {"reduce": lambda piece: None}):
            with pytest.raises(offload.Error, match="goes without clip and reduce"):
                offload.AdamW(model, in_backward=True, **more)
        opt = offload.AdamW(model, in_backward=True)
        opt.param_groups[0]["clip"] = 1.0
        ids = batches(1)[0]
        with pytest.raises(offload.Error, match="leave one of them out"):
            model(input_ids=ids, labels=ids).loss.backward()
            opt.step()
        opt.param_groups[0]["clip"] = 0.0
        opt.zero_grad()
        assert len(train(model, opt, 1)) == 1
