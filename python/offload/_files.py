"""Checkpoints of Hugging Face's layout: into a context, and out of it, a tensor at a time."""
import json
import os
import struct

import torch
from torch import nn

from . import _core
from ._convert import Recipes, changed_by_loading
from ._model import Manager, _manager, _mark
from ._parameters import DTYPES, Error

_FORMAT = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}


class _without_parameters:
    """Modules made inside have parameters without memory; buffers are real."""

    def __enter__(self):
        self.was = was = nn.Module.register_parameter

        def register(module, name, param):
            was(module, name, param)
            if param is not None:
                module._parameters[name] = type(param)(param.to("meta"), requires_grad=param.requires_grad)

        nn.Module.register_parameter = register

    def __exit__(self, *_):
        nn.Module.register_parameter = self.was


def _files_of(directory):
    index = os.path.join(directory, "model.safetensors.index.json")
    if os.path.exists(index):
        with open(index, encoding="utf-8") as f:
            return sorted({os.path.join(directory, n) for n in json.load(f)["weight_map"].values()})
    one = os.path.join(directory, "model.safetensors")
    if not os.path.exists(one):
        raise Error(f"{directory}: neither model.safetensors nor model.safetensors.index.json")
    return [one]


def load(cls, directory, ctx, *, dtype=None, trainable=True, blocks=None, prefix="", **more):
    """A transformers model of that class from a directory of safetensors files, its parameters in ctx; never as a whole
    in memory. dtype: of the parameters; default: the config's. trainable=False: nothing is copied, parameters are read
    in place from the files, in the files' dtype, and frozen. blocks, prefix: see attach. All else goes to the class, as
    attn_implementation="eager"."""
    from transformers import AutoConfig

    directory = os.fspath(directory)
    config = AutoConfig.from_pretrained(directory)
    files = {}
    for path in _files_of(directory):
        source = ctx.core.source(path)
        for name, kind, shape, _ in source.entries():
            files[name] = (path, source, kind, tuple(shape))
    dtype = dtype or getattr(config, "dtype", None) or torch.float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with _without_parameters():
            model = cls.from_config(config, **more) if hasattr(cls, "from_config") else cls(config, **more)
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()
    model.train(trainable)
    kinds = {v: k for k, v in DTYPES.items()}
    recipes = Recipes(directory, model, files)
    recipes.check(model.named_parameters())
    _give_room(model, trainable, lambda name, p: kinds[recipes.file_of(name)[2]])
    manager = Manager(ctx, model, blocks, prefix, None if trainable else lambda name, p: _in_place(recipes, name))
    manager.take(recipes.fill)
    _mark(model, manager)
    return model


def _in_place(recipes, name):
    _, source, _, _, there = recipes.file_of(name)
    return source.bind(there, _core.KIND_WEIGHT)


def _give_room(model, trainable, dtype_of):
    """Parameters on the meta device become ones that can be away; tied ones stay tied."""
    fresh = {}
    for name, p in model.named_parameters():
        dtype = p.dtype if trainable else dtype_of(name, p)
        fresh[id(p)] = nn.Parameter(torch.full((1,), float("nan"), dtype=dtype).expand(p.shape),
                                    requires_grad=trainable and p.requires_grad)
    for m in model.modules():
        for key, p in m._parameters.items():
            if p is not None:
                m._parameters[key] = fresh[id(p)]


def save(model, directory):
    """Writes the model as Hugging Face does: config.json, generation_config.json and model.safetensors, which is there
    whole or not at all; a tensor at a time in memory. Tied weights are written once."""
    manager = _manager(model)
    directory = os.fspath(directory)
    os.makedirs(directory, exist_ok=True)
    named = list(model.named_parameters())  # each parameter once
    buffers = [(n, b) for n, b in model.named_buffers()
               if n.rpartition(".")[2] not in model.get_submodule(n.rpartition(".")[0])._non_persistent_buffers_set]
    other = changed_by_loading(model, [n for n, _ in named])
    if other:
        raise Error(f"{other}: transformers converts what has this name when it loads it, so it can't be saved under it: copy the "
                    "weights into a model in memory, and use its save_pretrained")
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, t in named + buffers:
        if t.dtype not in _FORMAT:
            raise Error(f"{name}: {t.dtype} can't be saved")
        end = at + t.numel() * t.element_size()
        header[name] = {"dtype": _FORMAT[t.dtype], "shape": list(t.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = os.path.join(directory, "model.safetensors")
    try:
        with open(path + ".partial", "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text)
            for _, p in named:
                f.write(memoryview(manager.held[id(p)].read().view(-1).view(torch.uint8).numpy()))
            for _, b in buffers:
                f.write(memoryview(b.detach().contiguous().view(-1).view(torch.uint8).numpy()))
            f.flush()
            os.fsync(f.fileno())
        os.replace(path + ".partial", path)
    finally:
        if os.path.exists(path + ".partial"):
            os.unlink(path + ".partial")
    for config in (getattr(model, "config", None), getattr(model, "generation_config", None)):
        if hasattr(config, "save_pretrained"):
            config.save_pretrained(directory)
