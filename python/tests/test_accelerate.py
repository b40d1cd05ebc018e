"""A plain loop with Accelerate's Accelerator: the recipe of python/README.md, to the bits of the same loop in memory."""
import pytest
import torch
import transformers

import offload
from models import VOCAB, equal, model_of, tight, weights

accelerate = pytest.importorskip("accelerate")


def data():
    g = torch.Generator().manual_seed(5)
    return [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, VOCAB, (24, 16), generator=g)]


def trained(model, opt, precision, accumulate):
    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=accumulate)
    schedule = transformers.get_cosine_schedule_with_warmup(opt, 2, 12)
    batches = torch.utils.data.DataLoader(data(), batch_size=2)
    model, opt, batches, schedule = accelerator.prepare(model, opt, batches, schedule)
    losses, rates = [], []
    for batch in batches:
        with accelerator.accumulate(model):
            loss = model(**batch).loss
            accelerator.backward(loss)
            opt.step()
            schedule.step()
            opt.zero_grad()
        losses.append(loss.item())
        rates.append(schedule.get_last_lr()[0])
    return losses, rates, accelerator


@pytest.mark.parametrize("precision, accumulate", [("no", 1), ("no", 3), ("bf16", 2)])
def test_accelerator(precision, accumulate, tmp_path):
    plain, model = model_of("llama"), model_of("llama")
    with tight(model, tmp_path) as ctx, offload.open(device="64M", host="128M") as large:
        want = trained(plain, offload.AdamW(plain, large, lr=1e-3, clip=0.5), precision, accumulate)
        offload.attach(model, ctx)
        opt = offload.AdamW(model, lr=1e-3, clip=0.5)
        losses, rates, accelerator = trained(model, opt, precision, accumulate)
        assert losses == want[0] and rates == want[1] and len(set(rates)) > 2
        assert equal(weights(model), weights(plain))
        assert opt.count == 12 // accumulate
        offload.save(accelerator.unwrap_model(model), tmp_path / "out")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert equal(weights(again), weights(plain))


def test_close_to_torch(tmp_path):
    plain, model = model_of("gpt2"), model_of("gpt2")
    want = trained(plain, torch.optim.AdamW(plain.parameters(), lr=1e-3), "no", 2)
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        losses, _, _ = trained(model, offload.AdamW(model, lr=1e-3), "no", 2)
        assert max(abs(a - b) for a, b in zip(losses, want[0])) < 1e-5
        assert all(torch.allclose(w, plain.get_parameter(n), atol=1e-5) for n, w in weights(model).items())
