"""Adapters of PEFT over frozen weights that are offloaded, read in place too."""
import pytest
import torch
from transformers import AutoModelForCausalLM

import offload
from models import equal, model_of, tight, train

peft = pytest.importorskip("peft")


def adapted(model):
    torch.manual_seed(3)
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.0))


@pytest.mark.parametrize("in_place", [False, True])
def test_adapters(in_place, tmp_path):
    plain = model_of("llama")
    plain.save_pretrained(tmp_path / "in")
    plain = adapted(plain)
    want = train(plain, torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], lr=1e-2), 6)
    with offload.open(device="256K", host="2M", nvme=None if in_place else str(tmp_path)) as ctx:
        model = offload.load(AutoModelForCausalLM, tmp_path / "in", ctx, trainable=not in_place, attn_implementation="eager")
        model.train()
        model = adapted(model)
        assert sum(p.requires_grad for p in model.parameters()) == 16
        assert train(model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2), 6) == want
        model.save_pretrained(tmp_path / "adapter")
        assert ctx.stats()["evictions"] > 0 and (not in_place or ctx.stats()["nvme_write_bytes"] == 0)
    again = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "in"), tmp_path / "adapter")
    assert equal({n: p for n, p in again.named_parameters() if "lora" in n},
                 {n: p.detach() for n, p in plain.named_parameters() if "lora" in n})
