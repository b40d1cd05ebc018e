"""Groups of parameters with rates of their own, which schedulers change."""
import pytest
import torch

import offload
from models import equal, model_of, tight, train, weights


def groups_of(model, named=False):
    """As trainers make them: no decay for norms, other rates for the embeddings."""
    kinds = {"norm": [], "embed": [], "rest": []}
    for n, p in model.named_parameters():
        kinds["norm" if p.ndim < 2 else "embed" if "embed" in n or "lm_head" in n else "rest"].append((n, p) if named else p)
    return [{"params": kinds["rest"], "weight_decay": 0.3}, {"params": kinds["norm"], "weight_decay": 0.0},
            {"params": kinds["embed"], "lr": 3e-3, "betas": (0.8, 0.95), "eps": 1e-6}]


def schedules(opt):
    return torch.optim.lr_scheduler.SequentialLR(opt, [
        torch.optim.lr_scheduler.LinearLR(opt, 0.25, total_iters=3),
        torch.optim.lr_scheduler.LambdaLR(opt, [lambda k: 1.0, lambda k: 0.9 ** k, lambda k: 1 / (k + 1)])], [4])


def run(model, opt):
    schedule = schedules(opt)
    return train(model, opt, 8, after=lambda _: schedule.step())


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("dtype, clip", [(torch.float32, 0.0), (torch.float32, 0.5), (torch.bfloat16, 0.5)])
def test_bits_are_those_of_memory(dtype, clip, named, tmp_path):
    plain, model = model_of("llama", dtype), model_of("llama", dtype)
    with tight(model, tmp_path) as ctx, offload.open(device="64M", host="128M") as large:
        offload.attach(model, ctx)
        one, other = offload.AdamW(groups_of(model, named), lr=1e-3, clip=clip), \
            offload.AdamW(groups_of(plain, named), large, lr=1e-3, clip=clip)
        assert len(one.param_groups) == 3 and one.param_groups[2]["eps"] == 1e-6
        assert run(model, one) == run(plain, other)
        assert one.norm() == other.norm()
        assert equal(weights(model), weights(plain))
    if dtype == torch.float32 and clip == 0:
        reference = model_of("llama")
        run(reference, torch.optim.AdamW(groups_of(reference, named), lr=1e-3))
        assert all(torch.allclose(plain.get_parameter(n), p, atol=1e-5) for n, p in reference.named_parameters())


def test_a_rate_is_its_groups(tmp_path):
    """It can fail: without rates of its own a group ends elsewhere, and a rate of 0 stands still."""
    model = model_of("gpt2")
    before = weights(model)
    still = {n for n in before if "wte" in n or "ln_" in n}
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        opt = offload.AdamW([{"params": [p for n, p in model.named_parameters() if n not in still]},
                             {"params": [p for n, p in model.named_parameters() if n in still], "lr": 0.0}], lr=1e-3)
        train(model, opt, 2)
        after = weights(model)
        assert {n for n in after if torch.equal(before[n], after[n])} == still
        opt.param_groups[1]["lr"] = 1e-3
        train(model, opt, 1)
        assert not any(torch.equal(before[n], w) for n, w in weights(model).items())


def test_a_group_that_comes_later(tmp_path):
    def trained(model, ctx):
        first = list(model.model.layers.parameters())
        opt = offload.AdamW(first, ctx, lr=1e-3)
        train(model, opt, 2)
        opt.zero_grad()
        model.zero_grad()
        opt.add_param_group({"params": list(model.lm_head.parameters()), "lr": 1e-4})
        train(model, opt, 2)
        return weights(model)

    plain, model = model_of("llama"), model_of("llama")
    with tight(model, tmp_path) as ctx, offload.open(device="64M", host="128M") as large:
        assert equal(trained(offload.attach(model, ctx), None), trained(plain, large))


def test_what_is_refused(tmp_path):
    model = model_of("llama")
    with tight(model, tmp_path) as ctx, offload.open(device="1M") as other:
        offload.attach(model, ctx)
        ps = list(model.parameters())
        with pytest.raises(offload.Error, match="embed_tokens.* another context"):
            offload.AdamW(ps, other)
        with pytest.raises(offload.Error, match="different clip"):
            opt = offload.AdamW([{"params": ps[:3]}, {"params": ps[3:], "clip": 2.0}], clip=1.0, name="a")
            train(model, opt, 1)
        with pytest.raises(offload.Error, match="another optimizer"):
            offload.AdamW(ps, name="b")
        opt.param_groups[1]["clip"] = 1.0
        with offload.lease(model.lm_head):
            with pytest.raises(offload.Error, match="lm_head.weight is leased"):
                opt.step()
        opt.step()


def test_in_memory_beside_offloaded(tmp_path):
    """Some parameters offloaded, some not: one optimizer, one norm."""
    plain, model = model_of("llama"), model_of("llama")
    with tight(model, tmp_path) as ctx, offload.open(device="64M", host="128M") as large:
        offload.attach(model, ctx)
        for m in (plain, model):
            torch.manual_seed(5)
            m.extra = torch.nn.Linear(64, 64)
            m.model.norm.register_forward_hook(lambda _, args, out, m=m: out + m.extra(out))
        assert not hasattr(model.extra.weight, "offload_held")
        one, other = offload.AdamW(model, ctx, lr=1e-3, clip=0.5), offload.AdamW(plain, large, lr=1e-3, clip=0.5)
        assert train(model, one, 3) == train(plain, other, 3)
        assert one.norm() == other.norm()
        assert torch.equal(model.extra.weight, plain.extra.weight)
