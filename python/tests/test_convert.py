"""Checkpoints that transformers converts while it loads them: the same weights as from_pretrained, or a refusal."""
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import offload
from models import VOCAB, batches, equal, model_of, tight, train, weights

SMALL = {"vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 32, "max_position_embeddings": 64}


def mixture(name):
    torch.manual_seed(1)
    if name == "mixtral":
        config = transformers.MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2)
    elif name == "olmoe":
        config = transformers.OlmoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2)
    elif name == "qwen3_moe":
        config = transformers.Qwen3MoeConfig(**SMALL, head_dim=16, moe_intermediate_size=24, num_experts=4,
                                             num_experts_per_tok=2, mlp_only_layers=[1])
    else:
        config = transformers.DeepseekV3Config(**{**SMALL, "num_key_value_heads": 4}, moe_intermediate_size=24,
                                               n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, n_group=1,
                                               topk_group=1, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8,
                                               qk_nope_head_dim=8, v_head_dim=16, first_k_dense_replace=1)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def names_in(directory):
    names = set()
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "pt") as f:
            names |= set(f.keys())
    return names


@pytest.mark.parametrize("name", ["mixtral", "olmoe", "qwen3_moe", "deepseek_v3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_are_put_together(name, dtype, tmp_path):
    mixture(name).to(dtype).save_pretrained(tmp_path / "in", max_shard_size="100KB")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "in", dtype=dtype, attn_implementation="eager").train()
    assert names_in(tmp_path / "in") != set(dict(plain.named_parameters()))  # it does convert
    with offload.open(device="4M", host="4M", nvme=str(tmp_path)) as ctx:
        model = offload.load(AutoModelForCausalLM, tmp_path / "in", ctx, dtype=dtype, attn_implementation="eager")
        assert equal(weights(model), weights(plain))
        with offload.open(device="64M", host="64M") as large:
            assert train(model, offload.AdamW(model, lr=1e-3), 2) == train(plain, offload.AdamW(plain, large, lr=1e-3), 2)
        assert equal(weights(model), weights(plain))
        offload.save(model, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=dtype)
    assert equal(weights(again), weights(plain))
    with offload.open(device="4M", host="4M", nvme=str(tmp_path)) as ctx:
        once = offload.load(AutoModelForCausalLM, tmp_path / "out", ctx, dtype=dtype)
        assert equal(weights(once), weights(plain))
    with offload.open(device="4M", host="4M") as ctx:  # what is saved has one tensor for all experts
        in_place = offload.load(AutoModelForCausalLM, tmp_path / "out", ctx, trainable=False)
        assert equal(weights(in_place), weights(plain))


def test_what_is_converted_is_not_read_in_place(tmp_path):
    mixture("olmoe").save_pretrained(tmp_path / "in")
    with offload.open(device="4M", host="4M") as ctx:
        with pytest.raises(offload.Error, match=r"experts.gate_up_proj is made of 8 tensors .*can't be read in place"):
            offload.load(AutoModelForCausalLM, tmp_path / "in", ctx, trainable=False)


def changed(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def test_one_expert_is_missing(tmp_path):
    mixture("mixtral").save_pretrained(tmp_path / "in")
    gone = next(n for n in sorted(names_in(tmp_path / "in")) if ".experts.2." in n)
    changed(tmp_path / "in", lambda t: t.pop(gone))
    with offload.open(device="4M", host="4M") as ctx:
        with pytest.raises(offload.Error, match="layers.0.mlp.experts.gate_up_proj: .* can't make it of 7 tensors, .*w1"):
            offload.load(AutoModelForCausalLM, tmp_path / "in", ctx)


def test_quantized_is_refused(tmp_path):
    """Its numbers mean nothing without their scales."""
    model_of("llama").save_pretrained(tmp_path / "in")
    name = "model.layers.1.mlp.up_proj.weight"
    changed(tmp_path / "in", lambda t: t.update({name: t[name].to(torch.float8_e4m3fn), name + "_scale_inv": torch.ones(1)}))
    for trainable in (True, False):
        with offload.open(device="4M", host="4M") as ctx:
            with pytest.raises(offload.Error, match="up_proj.weight is f8_e4m3: quantized"):
                offload.load(AutoModelForCausalLM, tmp_path / "in", ctx, trainable=trainable)


def test_names_of_the_base_model(tmp_path):
    """A checkpoint of the model without its head's prefix, and one that has a tensor twice."""
    plain = model_of("llama")
    plain.save_pretrained(tmp_path / "in")
    changed(tmp_path / "in", lambda t: [t.update({n.removeprefix("model."): t.pop(n)}) for n in list(t)])
    with offload.open(device="4M", host="4M") as ctx:
        model = offload.load(AutoModelForCausalLM, tmp_path / "in", ctx)
        assert equal(weights(model), weights(plain))
    changed(tmp_path / "in", lambda t: t.update({"model.norm.weight": t["norm.weight"].clone()}))
    with offload.open(device="4M", host="4M") as ctx:
        with pytest.raises(offload.Error, match="both .*norm.weight and .*norm.weight are model.norm.weight"):
            offload.load(AutoModelForCausalLM, tmp_path / "in", ctx)


def test_generation_is_that_of_from_pretrained(tmp_path):
    mixture("mixtral").save_pretrained(tmp_path / "in")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "in", attn_implementation="eager")
    ids = batches(1, batch=1)[0]
    with offload.open(device="1M", host="2M", nvme=str(tmp_path)) as ctx:
        model = offload.load(AutoModelForCausalLM, tmp_path / "in", ctx, attn_implementation="eager").eval()
        assert torch.equal(model.generate(ids, max_new_tokens=8, do_sample=False),
                           plain.generate(ids, max_new_tokens=8, do_sample=False))


def test_names_that_mean_something_else(tmp_path, monkeypatch):
    """A tensor that has its parameter's name in the file, and is transposed there, as those of some mixtures are."""
    from transformers import conversion_mapping
    from transformers.core_model_loading import Transpose, WeightConverter

    plain = model_of("llama")
    plain.save_pretrained(tmp_path / "in")
    name = "self_attn.q_proj.weight"
    monkeypatch.setattr(conversion_mapping, "get_model_conversion_mapping",
                        lambda model: [WeightConverter(name, name, operations=[Transpose(0, 1)])])
    with offload.open(device="4M", host="4M") as ctx:
        model = offload.load(AutoModelForCausalLM, tmp_path / "in", ctx)
        want = {n: w.T.contiguous() if n.endswith(name) else w for n, w in weights(plain).items()}
        assert equal(weights(model), want)
        with pytest.raises(offload.Error, match="layers.0.self_attn.q_proj.weight: transformers converts .* save_pretrained"):
            offload.save(model, tmp_path / "out")
        assert not (tmp_path / "out/model.safetensors").exists()
