"""Checkpoints in and out, in place too."""
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import offload
from models import NAMES, batches, equal, model_of, tight, train, weights


@pytest.mark.parametrize("name", NAMES)
def test_loads_and_saves(name, tmp_path):
    plain = model_of(name)
    plain.save_pretrained(tmp_path / "in", max_shard_size="200KB")
    ids = batches(1)[0]
    with tight(plain, tmp_path) as ctx:
        model = offload.load(AutoModelForCausalLM, tmp_path / "in", ctx, attn_implementation="eager")
        assert equal(weights(model), weights(plain))
        with torch.no_grad():
            assert torch.equal(model(input_ids=ids).logits, plain.eval()(input_ids=ids).logits)
        train(model, offload.AdamW(model, lr=1e-3), 2)
        offload.save(model, tmp_path / "out")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        assert equal(weights(again), weights(model)) and not equal(weights(again), weights(plain))


def test_in_place_writes_nothing(tmp_path):
    plain = model_of("llama", torch.bfloat16).eval()
    plain.save_pretrained(tmp_path / "in")
    ids = batches(1, batch=1)[0]
    want = plain.generate(ids, max_new_tokens=12, do_sample=False)
    with offload.open(device="256K", host="2M") as ctx:  # of 0.4 MB, and no store
        model = offload.load(AutoModelForCausalLM, tmp_path / "in", ctx, trainable=False, attn_implementation="eager")
        assert torch.equal(model.generate(ids, max_new_tokens=12, do_sample=False), want)
        assert ctx.stats()["nvme_write_bytes"] == 0 and ctx.stats()["source_read_bytes"] > 0
        with pytest.raises(offload.Error, match="read in place"):
            for p in model.parameters():
                p.requires_grad_(True)
            offload.AdamW(model)


def test_what_is_not_there_is_named(tmp_path):
    plain = model_of("llama")
    plain.save_pretrained(tmp_path / "in")
    less = load_file(tmp_path / "in/model.safetensors")
    del less["model.layers.2.mlp.down_proj.weight"]
    save_file(less, tmp_path / "in/model.safetensors", {"format": "pt"})
    with tight(plain, tmp_path) as ctx:
        with pytest.raises(offload.Error, match="no tensor for model.layers.2.mlp.down_proj.weight .* offload.attach"):
            offload.load(AutoModelForCausalLM, tmp_path / "in", ctx)
        with pytest.raises(offload.Error, match="neither model.safetensors"):
            (tmp_path / "none").mkdir()
            (tmp_path / "none/config.json").write_text((tmp_path / "in/config.json").read_text())
            offload.load(AutoModelForCausalLM, tmp_path / "none", ctx)
