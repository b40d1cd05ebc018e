"""Hugging Face's Trainer: the class changes, and the result does not."""
import pytest
import torch
import transformers

import offload
from models import VOCAB, equal, model_of, tight, weights

pytest.importorskip("accelerate")


def trained(model, kind, out, **more):
    g = torch.Generator().manual_seed(5)
    data = [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, VOCAB, (24, 16), generator=g)]
    args = transformers.TrainingArguments(output_dir=str(out), per_device_train_batch_size=2, gradient_accumulation_steps=2,
                                          learning_rate=1e-3, num_train_epochs=1, logging_steps=1, report_to=[],
                                          use_cpu=True, lr_scheduler_type="cosine", seed=3, disable_tqdm=True, **more)
    trainer = kind(model=model, args=args, train_dataset=data, eval_dataset=data[:4])
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    return [row["loss"] for row in rows], [row["grad_norm"] for row in rows], trainer.evaluate()["eval_loss"]


@pytest.mark.parametrize("clip, decay", [(0.0, 0.0), (0.5, 0.5)])
def test_trainer(clip, decay, tmp_path):
    plain = model_of("llama")
    want = trained(plain, transformers.Trainer, tmp_path / "plain", max_grad_norm=clip, weight_decay=decay, save_strategy="no")
    model = model_of("llama")
    with tight(model, tmp_path) as ctx:
        offload.attach(model, ctx)
        losses, norms, evaluated = trained(model, offload.Trainer, tmp_path / "out", max_grad_norm=clip, weight_decay=decay, save_strategy="epoch")
        assert len(losses) == 6 and max(abs(a - b) for a, b in zip(losses, want[0])) < 1e-4
        assert max(abs(a - b) for a, b in zip(norms, want[1])) < 1e-4 and min(norms) > 0.5  # clipping does something
        assert abs(evaluated - want[2]) < 1e-4
        got = weights(model)
    assert all(torch.allclose(got[n], p, atol=1e-5) for n, p in plain.named_parameters())
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "checkpoint-6")
    assert equal(weights(saved), got)
