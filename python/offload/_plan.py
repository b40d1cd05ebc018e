"""What a step of a model will take of a machine, before anything runs."""
import json
import os
import tempfile

import torch
from torch import nn

from . import _core
from ._model import _blocks_of
from ._parameters import DTYPES, Error
from ._size import bytes_text, size

class Plan(dict):
    """A dict, as json.dumps takes it; print() shows a table."""

    def __str__(self):
        lines = [f"{self['model']}: {self['parameters'] / 1e9:.3g} B parameters on {self['machine']}"]
        if not self["fits"]:
            lines.append(f"does not fit: {self['missing']}")
        for tier in ("device", "host", "nvme"):
            t = self[tier]
            rests = ", ".join(f"{kind} {bytes_text(n)}" for kind, n in t.items() if kind not in ("budget", "least"))
            least = "no size would do" if t["least"] is None else f"at least {bytes_text(t['least'])}"
            lines.append(f"{tier:<6}  {bytes_text(t['budget']):>10}  ({least})  {rests}".rstrip() if self["fits"] else
                         f"{tier:<6}  {least}")
        if self["fits"]:
            busy = ", ".join(f"{name} {s:.3g} s" for name, s in self["busy_s"].items())
            lines.append(f"step    {self['step_s']:.3g} s, {self['tokens_per_s']:.4g} tokens/s; {self['binds']} binds ({busy})")
            lines.append(f"moves   {bytes_text(self['device_in_bytes'])} in, {bytes_text(self['device_out_bytes'])} out, "
                         f"{bytes_text(self['drive_read_bytes'])} read, {bytes_text(self['drive_write_bytes'])} written")
        return "\n".join(lines)


def _config_of(model):
    """(config, a model on any device, a name)"""
    if isinstance(model, nn.Module):
        config = getattr(model, "config", None)
        if config is None:
            raise Error(f"{type(model).__name__} has no config that says its shape")
        return config, model, type(model).__name__
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(os.fspath(model)) if isinstance(model, (str, os.PathLike)) else model
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(config)
    made.tie_weights()
    return config, made, type(made).__name__


def _vectors(model, head_dim):
    """What a layer has beside its matrices: by the names that transformers gives."""
    blocks = _blocks_of(model, None)
    names = {n: p for n, p in model.get_submodule(blocks[0]).named_parameters()} if blocks else {}
    found = 0
    for name, p in names.items():
        module, _, kind = name.rpartition(".")
        last = module.rpartition(".")[2]
        if kind == "bias":
            found |= _core.VECTORS_QKV_BIAS if last in ("q_proj", "k_proj", "v_proj") else \
                _core.VECTORS_O_BIAS if last == "o_proj" else _core.VECTORS_MLP_BIAS
        elif last == "q_norm":
            found |= _core.VECTORS_QK_NORM_HEAD if p.numel() == head_dim else _core.VECTORS_QK_NORM_ALL
    if "post_feedforward_layernorm.weight" in names:
        found |= _core.VECTORS_POST_NORMS
        if "input_layernorm.weight" not in names:
            found |= _core.VECTORS_NO_PRE_NORMS
    return found


def _workload(config, model, name):
    shape = {}
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    for ours, theirs in (("layers", "num_hidden_layers"), ("hidden", "hidden_size"), ("heads", "num_attention_heads"),
                         ("intermediate", "intermediate_size"), ("vocab", "vocab_size")):
        value = getattr(config, theirs, None)
        if not isinstance(value, int):
            raise Error(f"{name}: the formulas know models of Llama's architecture and its relatives, and its config has no "
                        f"{theirs}")
        shape[ours] = value
    shape["kv_heads"] = getattr(config, "num_key_value_heads", None) or shape["heads"]
    shape["head_dim"] = getattr(config, "head_dim", None) or shape["hidden"] // shape["heads"]
    shape["tied"] = int(bool(getattr(config, "tie_word_embeddings", False)))
    shape["vectors"] = _vectors(model, shape["head_dim"])
    return shape


def plan(model, machine, *, device=0, host=0, nvme=0, work="train", dtype=None, batch=1, seq=1024, accum=1, clip=1.0,
         positions=0, source=False):
    """Whether a step of the model fits a machine, where its bytes rest, what moves, how long it takes and what binds: by
    the library's formulas, which ofl-bench plan has, too. Nothing is opened or measured.

    model: a model, its config, or a directory with one. machine: a name of the library's table ("rtx-4090"), a JSON file,
    or a dict as that file has: {"like": "rtx-4090", "host_bytes": 64e9}. device, host, nvme: budgets, as for
    offload.open; 0: the machine's. work: "train" or "decode" (source=True: weights read in place; positions: tokens that
    the cache holds).

    Training is as ofl-finetune does it: layers computed anew in backward. What torch holds itself is not counted.
    Returns a dict that prints as a table."""
    if work not in ("train", "decode"):
        raise ValueError(f"work={work!r}: 'train' or 'decode'")
    config, made, name = _config_of(model)
    shape = _workload(config, made, name)
    dtype = dtype or next(made.parameters()).dtype
    if dtype not in (torch.float32, torch.bfloat16):
        raise Error(f"{name}: plans are for float32 and bfloat16, not {dtype}: give dtype=")
    shape["dtype"] = _core.DTYPES[DTYPES[dtype]]
    if work == "train":
        shape.update(work=_core.TRAIN, batch=batch, seq=seq, accum=accum, clip=int(bool(clip)))
    else:
        shape.update(work=_core.DECODE, positions=positions or seq, source=int(source))
    budgets = {"device_bytes": size(device), "host_bytes": size(host), "nvme_bytes": size(nvme)}
    found = _estimate(machine, shape, budgets)
    has = sum(p.numel() for p in made.parameters())
    # A model that does not fit has no count.
    if found["fits"] and found["parameters"] != has:
        raise Error(f"{name}: it has {has} parameters, and a model of Llama's architecture of its config would have "
                    f"{found['parameters']}: the formulas don't know it")
    found["parameters"] = has
    return Plan(model=name, work=work, **found)


def _estimate(machine, shape, budgets):
    if not isinstance(machine, dict):
        machine = os.fspath(machine)
        return _core.estimate(machine, os.path.exists(machine), shape, budgets)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump({"name": "yours", **machine}, f)
        f.flush()
        return _core.estimate(f.name, True, shape, budgets)
