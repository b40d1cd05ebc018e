"""The same losses, norms and weights as without offload, on every tier."""
import pytest
import torch

import offload
from models import NAMES, batches, equal, model_of, tight, train, weights


def in_memory(name, dtype, steps, accum=1, **settings):
    """A plain model whose optimizer alone is offload's, with room for all."""
    model = model_of(name, dtype)
    with offload.open(device="64M", host="128M") as ctx:
        opt = offload.AdamW(model, ctx, lr=1e-3, **settings)
        losses = train(model, opt, steps, accum)
        return losses, weights(model), opt.norm()


@pytest.mark.parametrize("name", NAMES)
def test_bits_are_those_of_memory(name, tmp_path):
    want = in_memory(name, torch.float32, 50, clip=1.0)
    model = model_of(name)
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        opt = offload.AdamW(model, lr=1e-3, clip=1.0)
        losses = train(model, opt, 50)
        assert losses == want[0]
        assert equal(weights(model), want[1])
        assert opt.norm() == want[2]
        assert ctx.stats()["nvme_write_bytes"] > 0 or ctx.stats()["evictions"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_close_to_torch(name, tmp_path):
    plain = model_of(name)
    opt = torch.optim.AdamW(plain.parameters(), lr=1e-3)
    want = train(plain, opt, 8)
    model = model_of(name)
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        losses = train(model, offload.AdamW(model, lr=1e-3), 8)
        assert max(abs(a - b) for a, b in zip(losses, want)) < 1e-5
        for n, w in weights(model).items():
            assert torch.allclose(w, plain.get_parameter(n), atol=1e-5), n


def test_everything_on_the_device():
    want = in_memory("llama", torch.float32, 5, clip=1.0)
    model = model_of("llama")
    with offload.open(device="64M") as ctx:
        offload.attach(model, ctx)
        assert train(model, offload.AdamW(model, lr=1e-3, clip=1.0), 5) == want[0]
        assert equal(weights(model), want[1])
        assert ctx.stats()["device_in_bytes"] == 0 or ctx.stats()["evictions"] == 0


def test_no_decay(tmp_path):
    plain = model_of("llama")
    spared = {n for n, p in plain.named_parameters() if p.ndim < 2}
    opt = torch.optim.AdamW([{"params": [p for n, p in plain.named_parameters() if (n in spared) == s],
                              "weight_decay": 0.0 if s else 2.0} for s in (False, True)], lr=1e-3)
    want = train(plain, opt, 8)
    model = model_of("llama")
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        losses = train(model, offload.AdamW(model, lr=1e-3, weight_decay=2.0, no_decay=spared), 8)
        assert max(abs(a - b) for a, b in zip(losses, want)) < 1e-5
        assert all(torch.allclose(w, plain.get_parameter(n), atol=1e-5) for n, w in weights(model).items())


def test_bf16_and_accumulation(tmp_path):
    def run(ctx, offloaded):
        model = model_of("llama", torch.bfloat16)
        opt = offload.AdamW(offload.attach(model, ctx), lr=1e-3, clip=1.0) if offloaded else None
        return train(model, opt, 6, accum=3), weights(model)

    with offload.open(device="64M", host="128M") as ctx:
        want = run(ctx, True)
    with tight(model_of("llama", torch.bfloat16), tmp_path) as ctx:
        losses, got = run(ctx, True)
    assert losses == want[0] and equal(got, want[1])


def test_another_seed_is_seen(tmp_path):
    """The comparisons can fail."""
    a, b = model_of("llama"), model_of("llama")
    with torch.no_grad():
        b.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    assert not equal(weights(a), weights(b))


def test_checkpointing_keeps_the_bits(tmp_path):
    want = in_memory("llama", torch.float32, 5)
    model = model_of("llama")
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        assert train(model, offload.AdamW(model, lr=1e-3), 5) == want[0]
        assert equal(weights(model), want[1])


def test_evaluation_between_and_inside_of_steps(tmp_path):
    want = in_memory("gpt2", torch.float32, 6, accum=2)
    model = model_of("gpt2")
    ids = batches(1)[0]
    seen = []

    def look(_=None):
        with torch.no_grad():
            seen.append(model(input_ids=ids, labels=ids).loss.item())

    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        opt = offload.AdamW(model, lr=1e-3)
        data = iter(batches(12))
        losses = []
        for _ in range(6):
            for _ in range(2):
                x = next(data)
                loss = model(input_ids=x, labels=x).loss
                (loss / 2).backward()
                losses.append(loss.item())
                look()
            opt.step()
            look()
        assert losses == want[0] and equal(weights(model), want[1])
    assert len(set(seen)) == 7  # weights change in steps alone


def test_generate(tmp_path):
    model = model_of("qwen3").eval()
    ids = batches(1, batch=1)[0]
    want = model.generate(ids, max_new_tokens=12, do_sample=False)
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        assert torch.equal(model.generate(ids, max_new_tokens=12, do_sample=False), want)


def test_frozen_and_unused_parameters(tmp_path):
    def run(ctx):
        model = model_of("llama")
        for p in model.model.layers[1].parameters():
            p.requires_grad_(False)
        model.extra = torch.nn.Linear(4, 4)  # gets no gradient
        offload.attach(model, ctx)
        before = weights(model)
        opt = offload.AdamW(model, lr=1e-3)
        train(model, opt, 3)
        after = weights(model)
        same = {n for n in after if torch.equal(before[n], after[n])}
        assert same == {n for n in after if n.startswith(("model.layers.1.", "extra."))}
        return after

    with offload.open(device="64M", host="128M") as ctx:
        want = run(ctx)
    with tight(model_of("llama"), tmp_path) as ctx:
        assert equal(run(ctx), want)


def test_several_backward_passes(tmp_path):
    def run(model, opt):
        for ids in batches(4):
            out = model(input_ids=ids, labels=ids)
            out.loss.backward(retain_graph=True)
            out.logits.float().pow(2).mean().backward()
            opt.step()
            opt.zero_grad()

    plain = model_of("llama")
    with offload.open(device="64M", host="128M") as ctx:
        run(plain, offload.AdamW(plain, ctx, lr=1e-3))
    model = model_of("llama")
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        run(model, offload.AdamW(model, lr=1e-3))
        assert equal(weights(model), weights(plain))


def test_autocast(tmp_path):
    def run(model, opt):
        losses = []
        for ids in batches(4):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            losses.append(loss.item())
            opt.step()
            opt.zero_grad()
        return losses

    plain = model_of("llama")
    with offload.open(device="64M", host="128M") as ctx:
        want = run(plain, offload.AdamW(plain, ctx, lr=1e-3))
    model = model_of("llama")
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        assert run(model, offload.AdamW(model, lr=1e-3)) == want
        assert equal(weights(model), weights(plain))


def test_schedulers(tmp_path):
    def run(opt, model):
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10)
        train(model, opt, 5, after=lambda _: schedule.step())

    plain = model_of("gpt2")
    with offload.open(device="64M", host="128M") as ctx:
        run(offload.AdamW(plain, ctx, lr=1e-3), plain)
    model = model_of("gpt2")
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        run(offload.AdamW(model, lr=1e-3), model)
        assert equal(weights(model), weights(plain))
