"""Wrong uses give an exception that names the thing, and the context stays usable."""
import os

import pytest
import torch

import offload
from models import batches, equal, model_of, tight, train, weights


@pytest.fixture
def model(tmp_path):
    model = model_of("llama")
    with tight(model, tmp_path) as ctx:
        yield offload.attach(model, ctx)


def works(model):
    ids = batches(1)[0]
    model(input_ids=ids, labels=ids).loss.backward()


def test_touched_outside(model, tmp_path):
    w = model.model.layers[0].mlp.up_proj.weight
    for touch in (lambda: w + 1, lambda: w.data, lambda: w.tolist(), lambda: w.sum(), lambda: w[0], lambda: torch.stack([w]),
                  lambda: w.numpy(), lambda: float(w[0, 0]), lambda: w.copy_(w), lambda: w.detach() + 1,
                  lambda: model.state_dict()["model.norm.weight"].clone(), lambda: model.save_pretrained(tmp_path / "never")):
        with pytest.raises(offload.Error, match="with offload.lease") as e:
            touch()
        assert "weight" in str(e.value)
    assert w.shape == (128, 64) and w.dtype == torch.float32 and w.numel() == 8192 and "Away" in repr(w)
    works(model)


def test_lease_shows_and_changes(model):
    mlp = model.model.layers[0].mlp
    with offload.lease(mlp, write=True):
        before = mlp.up_proj.weight.clone()
        with torch.no_grad():
            mlp.up_proj.weight.mul_(2)
    with offload.lease(mlp):
        assert torch.equal(mlp.up_proj.weight, 2 * before)
    with pytest.raises(offload.Error, match="up_proj"):
        mlp.up_proj.weight + 1


def test_budget_too_small(tmp_path):
    model = model_of("llama")
    before = weights(model)
    with offload.open(device="64K", host="2M", nvme=str(tmp_path)) as ctx:
        with pytest.raises(offload.BudgetError, match=r"model.layers.0 .*smallest device budget is \d+"):
            offload.attach(model, ctx)
        assert equal(weights(model), before)  # as it was
    with pytest.raises(offload.BudgetError, match="host"):
        offload.open(device="64M", host="1M")
    with pytest.raises(ValueError, match="no size"):
        offload.open(device="64Q")


def test_parameter_replaced(model):
    model.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(torch.zeros(128, 64))
    with pytest.raises(offload.Error, match="layers.1.*up_proj|layers.1.*weight was replaced"):
        works(model)


@pytest.mark.parametrize("what", [ValueError, KeyboardInterrupt])
def test_exception_inside_forward(model, what):
    def fail(*_):
        raise what("here")

    handle = model.model.layers[2].mlp.register_forward_pre_hook(fail)
    with pytest.raises(what):
        works(model)
    handle.remove()
    works(model)
    model.zero_grad()
    plain = model_of("llama")
    opt = offload.AdamW(model, lr=1e-3)
    with offload.open(device="64M", host="64M") as ctx:
        assert train(model, opt, 3) == train(plain, offload.AdamW(plain, ctx, lr=1e-3), 3)


def test_step_behind_an_exception(model):
    """The gradients are those of the pass before it."""
    plain = model_of("llama")
    opt = offload.AdamW(model, lr=1e-3)
    works(model)

    def fail(*_):
        raise ValueError("here")

    handle = model.model.layers[2].mlp.register_forward_pre_hook(fail)
    with pytest.raises(ValueError):
        model(input_ids=batches(1)[0])
    handle.remove()
    opt.step()
    with offload.open(device="64M", host="64M") as ctx:
        train(plain, offload.AdamW(plain, ctx, lr=1e-3), 1)
    assert equal(weights(model), weights(plain))


def test_gradients_are_not_in_grad(model):
    """Who would clip or look at none is told."""
    opt = offload.AdamW(model, lr=1e-3)
    works(model)
    for look in (lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0), lambda: model.lm_head.weight.grad,
                 lambda: model.lm_head.zero_grad()):
        with pytest.raises(offload.Error, match="weight: its gradient is in the context.*AdamW"):
            look()
    opt.step()
    assert model.lm_head.weight.grad is None
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # there are none


@pytest.mark.parametrize("whose", ["model", "optimizer", "each"])
def test_gradients_are_dropped(model, whose):
    plain = model_of("llama")
    opt = offload.AdamW(model, lr=1e-3)
    (model(input_ids=batches(1)[0] * 0, labels=batches(1)[0]).loss * 7).backward()
    if whose == "each":
        for p in model.parameters():
            p.grad = None
    else:
        (model if whose == "model" else opt).zero_grad()
    works(model)
    opt.step()
    with offload.open(device="64M", host="64M") as ctx:
        train(plain, offload.AdamW(plain, ctx, lr=1e-3), 1)
    assert equal(weights(model), weights(plain))


def test_forked(model):
    pid = os.fork()
    if pid == 0:
        try:
            works(model)
        except offload.Error as e:
            os._exit(0 if "forked" in str(e) else 1)
        except BaseException:
            os._exit(2)
        os._exit(3)
    assert os.waitpid(pid, 0)[1] == 0
    works(model)


def test_closed(tmp_path):
    model = model_of("llama")
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
    with pytest.raises(offload.Error, match="closed"):
        ctx.stats()
    with pytest.raises(offload.Error):
        works(model)


def test_twice(model):
    with pytest.raises(offload.Error, match="offloaded already"):
        offload.attach(model, model.offload_manager.ctx)
    offload.AdamW(model)
    with pytest.raises(offload.Error, match="another name"):
        offload.AdamW(model)
