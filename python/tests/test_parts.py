"""The optimizer alone, and activations alone: at most three lines each beside plain torch."""
import pytest
import torch

import offload
from models import NAMES, batches, equal, model_of, tight, train, weights


@pytest.mark.parametrize("name", NAMES)
def test_activations_change_nothing(name, tmp_path):
    plain = model_of(name)
    want = train(plain, torch.optim.AdamW(plain.parameters(), lr=1e-3), 4)
    model = model_of(name)
    with offload.open(device="128K", host="2M", nvme=str(tmp_path)) as ctx:
        forward = model.forward

        def stored(*args, **kw):
            with offload.activations(ctx, least=1024):
                return forward(*args, **kw)

        model.forward = stored
        assert train(model, torch.optim.AdamW(model.parameters(), lr=1e-3), 4) == want
        assert equal(weights(model), weights(plain))
        rooms = ctx.activation_count[0]
        train(model, torch.optim.AdamW(model.parameters(), lr=1e-3), 2)
        assert rooms > 10 and ctx.activation_count[0] == rooms  # they are used again
        assert ctx.stats()["evictions"] > 0


def test_activations_beside_all_else(tmp_path):
    plain = model_of("llama")
    with offload.open(device="64M", host="64M") as ctx:
        want = train(plain, offload.AdamW(plain, ctx, lr=1e-3), 4)
    model = model_of("llama")
    with offload.open(device="512K", host="2M", nvme=str(tmp_path)) as ctx:
        offload.attach(model, ctx)
        with offload.activations(ctx, least=1024):
            assert train(model, offload.AdamW(model, lr=1e-3), 4) == want
        assert equal(weights(model), weights(plain))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_optimizer_alone(dtype, tmp_path):
    a, b = model_of("llama", dtype), model_of("llama", dtype)
    with offload.open(device="1M", host="2M", nvme=str(tmp_path)) as ctx, offload.open(device="64M", host="64M") as large:
        one, other = offload.AdamW(a.parameters(), ctx, lr=1e-3), offload.AdamW(b.parameters(), large, lr=1e-3)
        assert train(a, one, 4) == train(b, other, 4)
        assert equal(weights(a), weights(b))
        state = one.state_of(a.lm_head.weight)
        assert torch.equal(state["exp_avg"], other.state_of(b.lm_head.weight)["exp_avg"]) and state["exp_avg"].abs().sum() > 0
    if dtype == torch.float32:
        c = model_of("llama")
        train(c, torch.optim.AdamW(c.parameters(), lr=1e-3), 4)
        assert all(torch.allclose(a.get_parameter(n), p, atol=1e-5) for n, p in c.named_parameters())


def test_bf16_masters_are_those_of_torch(tmp_path):
    """torch's AdamW over float32 copies of the weights, which the model gets rounded."""
    model, plain = model_of("llama", torch.bfloat16), model_of("llama", torch.bfloat16)
    masters = {n: torch.nn.Parameter(p.detach().float()) for n, p in plain.named_parameters()}
    reference = torch.optim.AdamW(masters.values(), lr=1e-3)
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        opt = offload.AdamW(model, lr=1e-3)
        for ids in batches(3):
            for m in (plain, model):
                m(input_ids=ids, labels=ids).loss.backward()
            for n, p in plain.named_parameters():
                masters[n].grad, p.grad = p.grad.float(), None
            reference.step()
            opt.step()
            with torch.no_grad():
                for n, p in plain.named_parameters():
                    p.copy_(opt.state_of(model.get_parameter(n))["master"])  # the next gradients are of the same bits
        for n, p in model.named_parameters():
            state = opt.state_of(p)
            assert torch.allclose(state["master"], masters[n], atol=1e-6), n
            assert torch.equal(weights(model)[n], state["master"].bfloat16())
