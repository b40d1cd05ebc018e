"""What autograd saves, on any tier of a context."""
import weakref

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from . import _core
from ._parameters import DTYPES, Error, tensor_view

_NAMES = dict(DTYPES)
_NAMES.update({torch.int64: "i64", torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8",
               torch.bool: "bool"})


class _Stored:
    """Bytes of a tensor that was saved. Its room goes back to the pool when nothing refers to it."""
    __slots__ = ("owner", "tensor", "key", "shape", "stride", "dtype", "storage", "__weakref__")

    def __init__(self, owner, t, storage):
        self.storage = storage  # held, so that no other one can have its name
        self.owner, self.shape, self.stride, self.dtype = owner, t.shape, t.stride(), t.dtype
        self.key = (t.dtype, t.numel())
        self.tensor = owner.room(self.key)
        lease = owner.core.acquire([self.tensor], _core.OVERWRITE, 0)
        try:
            tensor_view(lease.memory(0), (t.numel(),), t.dtype).as_strided(t.shape, t.stride()).copy_(t)
        finally:
            lease.release()

    def bring(self):
        lease = self.owner.core.acquire([self.tensor], _core.READ, 0)
        try:
            flat = tensor_view(lease.memory(0), (self.key[1],), self.dtype).clone()
        finally:
            lease.release()
        return flat.as_strided(self.shape, self.stride)

    def __del__(self):
        self.owner.pool.setdefault(self.key, []).append(self.tensor)


def _dense(t):
    """Whether t fills a range of memory: its strides are those of some order of its dimensions."""
    expected = 1
    for stride, length in sorted((s, n) for s, n in zip(t.stride(), t.shape) if n != 1):
        if stride != expected:
            return False
        expected *= length
    return True


class activations:
    """`with offload.activations(ctx):` around a forward: what autograd saves there of at least `least` bytes goes to the
    context, and comes back when backward asks for it. Parameters, and views that share memory in odd ways, stay."""

    def __init__(self, ctx, least=1 << 16):
        self.core, self.least = ctx.core, least
        self.pool = ctx.__dict__.setdefault("activation_rooms", {})
        self.made = ctx.__dict__.setdefault("activation_count", [0])
        self.seen = weakref.WeakValueDictionary()

    def room(self, key):
        free = self.pool.get(key)
        if free:
            return free.pop()
        self.made[0] += 1
        return self.core.tensor(f"activation.{self.made[0]}", _core.KIND_ACTIVATION, _core.DTYPES[_NAMES[key[0]]], key[1], 0)

    def pack(self, t):
        if isinstance(t, torch.nn.Parameter) or t.dtype not in _NAMES or t.device.type != "cpu" or \
                t.numel() * t.element_size() < self.least or t.layout != torch.strided or not _dense(t) or \
                isinstance(t._base, torch.nn.Parameter):
            return t
        # Several operations save one tensor: it goes once.
        storage = StorageWeakRef(t.untyped_storage())
        key = (storage.cdata, t.storage_offset(), t.dtype, tuple(t.shape), t.stride(), t._version)
        stored = self.seen.get(key)
        if stored is None:
            stored = self.seen[key] = _Stored(self, t, storage)
        return stored

    @staticmethod
    def unpack(saved):
        return saved.bring() if isinstance(saved, _Stored) else saved

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, self.unpack)
        self.hooks.__enter__()
        return self

    def __exit__(self, *why):
        self.hooks.__exit__(*why)
        self.seen.clear()
