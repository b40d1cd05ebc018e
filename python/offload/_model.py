"""Models whose parameters live in a context: leased block by block, in forward and in backward.

A unit is what is leased together: a block (a layer of the model's longest list of modules), or a module outside the
blocks that has parameters of its own. Before a unit's forward its parameters are leased, after it they are released.
What autograd saves of leased memory is saved as a name and a place, and leased again when backward asks for it: memory
that was released belongs to other tensors by then.
"""
import torch
from torch import nn

from . import _core
from ._parameters import Error, Held

_TRAIN, _INFER = "offload.train", "offload.infer"


class _Saved:
    """Of a parameter, as autograd saved it: a view of its memory."""
    __slots__ = ("unit", "held", "dtype", "size", "stride", "offset")

    def __init__(self, unit, held, t):
        self.unit, self.held, self.dtype = unit, held, t.dtype
        self.size, self.stride, self.offset = t.size(), t.stride(), t.storage_offset()


class _Below:
    """What the hooks below ours made of a tensor: those of checkpointing, or of activations."""
    __slots__ = ("unpack", "packed")

    def __init__(self, unpack, packed):
        self.unpack, self.packed = unpack, packed


class Unit:
    def __init__(self, manager, name, module, own_only):
        self.manager, self.name, self.module = manager, name, module
        self.places = [(m, key, p) for m in ([module] if own_only else module.modules())
                       for key, p in m._parameters.items() if p is not None]
        self.held = list({id(p): manager.held[id(p)] for _, _, p in self.places}.values())
        self.tensors = [h.tensor for h in self.held]
        self.count, self.now = 0, None
        self.hooks = []  # entered, of forwards that run

    def check(self):
        for m, key, p in self.places:
            if m._parameters.get(key) is not p:
                raise Error(f"{self.name}: its parameter {key} was replaced after offload took the model: change it in "
                            "`with offload.lease(module, write=True):`, or take the changed model anew")

    def lease(self, mode=_core.READ):
        self.count += 1
        if self.count > 1:
            return
        try:
            self.now = self.manager.core.acquire(self.tensors, mode, self.manager.flags())
        except BaseException:
            self.count -= 1
            raise
        for i, (h, address) in enumerate(zip(self.held, self.now.addresses())):
            h.come(self.now, i, address)

    def release(self):
        self.count -= 1
        if self.count:
            return
        lease, self.now = self.now, None
        for h in self.held:
            h.leave()
        lease.release()

    # ---- hooks

    def before(self, module, args):
        self.check()
        self.lease()
        if torch.is_grad_enabled():
            below = torch._C._autograd._top_saved_tensors_default_hooks(False)
            hooks = torch.autograd.graph.saved_tensors_hooks(
                lambda t: self.pack(t, below), self.manager.unpack)
            hooks.__enter__()
        else:
            hooks = None
        self.hooks.append(hooks)

    def after(self, module, args, output):
        if not self.hooks:
            return  # its `before` failed
        hooks = self.hooks.pop()
        if hooks:
            hooks.__exit__(None, None, None)
        self.release()

    def inner(self, module, args):
        # transformers checkpoints inside of a block's hooks: what is computed anew in backward does not pass them.
        if self.count == 0 and torch._C._current_graph_task_id() != -1:
            self.manager.need(self)

    def pack(self, t, below):
        base = t.untyped_storage().data_ptr()
        for h in self.held:
            if h.address == base:
                return _Saved(self, h, t)
        return _Below(below[1], below[0](t)) if below else t


class Manager:
    """What a context has of one model."""

    def __init__(self, ctx, model, blocks, prefix, bind=None):
        self.ctx, self.core, self.model = ctx, ctx.core, model
        self.held = {}
        self.units = []
        self.step = None  # the name of the step that is open
        self.at = None  # the unit that backward has leased
        self.queued = False
        self.between = []  # called in backward where no unit is leased
        self.handles = []
        names = _blocks_of(model, blocks)
        self._check(names)
        for name, p in model.named_parameters():
            held = Held(self, prefix + name, p, bind(name, p) if bind else None)
            self.held[id(p)] = held
            p.offload_held = held
        self._make_units(names)
        ctx.models.append(self)

    def _modules(self, blocks):
        """(name, module, whether its own parameters alone) of each unit."""
        inside = {id(m) for b in blocks for m in self.model.get_submodule(b).modules()}
        return [(b, self.model.get_submodule(b), False) for b in blocks] + \
            [(n, m, True) for n, m in self.model.named_modules()
             if id(m) not in inside and any(p is not None for p in m._parameters.values())]

    def _check(self, blocks):
        """Whether each unit fits the device."""
        budget = self.core.stats()["device_budget_bytes"]
        needs = {}
        for name, module, own_only in self._modules(blocks):
            parameters = {id(p): p for p in (module._parameters.values() if own_only else module.parameters())
                          if p is not None}
            needs[name or type(module).__name__] = sum(_core.footprint(p.numel() * p.element_size())
                                                       for p in parameters.values())
        name = max(needs, key=needs.get) if needs else ""
        if needs and needs[name] > budget:
            raise _core.BudgetError(f"{name} has {needs[name]} bytes of parameters, which are leased together: more than the "
                                    f"device budget of {budget} bytes; the smallest device budget is {needs[name]}")

    def _make_units(self, blocks):
        for name, module, own_only in self._modules(blocks):
            unit = Unit(self, name or type(module).__name__, module, own_only)
            self.units.append(unit)
            self.handles.append(module.register_forward_pre_hook(unit.before))
            self.handles.append(module.register_forward_hook(unit.after, always_call=True))
            for m in {id(m): m for m, _, _ in unit.places if m is not module}.values():
                self.handles.append(m.register_forward_pre_hook(unit.inner))
        self.handles.append(self.model.register_forward_pre_hook(self.begin, prepend=True))
        self.handles.append(self.model.register_forward_hook(self.end, always_call=True))

    def take(self, fill):
        """Every parameter's bytes from fill, a function of (name, parameter, what takes its tensor), unless they came back by
        a resume; then it is away."""
        named = [(name, p, self.held[id(p)]) for name, p in self.model.named_parameters()]
        fill([(name, p, held.take) for name, p, held in named if not held.in_place and not held.tensor.resumed()])
        for _, _, held in named:
            held.go()

    # ---- steps

    def begin(self, module, args):
        self.recover()
        if self.step is None:
            self.step = _TRAIN if torch.is_grad_enabled() else _INFER
            self.core.step_begin(self.step)

    def end(self, module, args, output):
        if self.step == _INFER:
            self.rest()

    def rest(self):
        """Ends the step that is open."""
        self.recover()
        if self.step:
            self.step = None
            self.core.step_end()

    def flags(self):
        # Evaluations inside of a training step are none of it.
        return _core.LEASE_UNPLANNED if self.step == _TRAIN and not torch.is_grad_enabled() and not self.queued else 0

    def recover(self):
        """What an exception or an interrupt left leased."""
        for unit in reversed(self.units):
            while unit.hooks:
                hooks = unit.hooks.pop()
                if hooks:
                    hooks.__exit__(None, None, None)
            if unit.count:
                unit.count = 1
                unit.release()
        self.at, self.queued = None, False

    # ---- backward

    def unpack(self, saved):
        if isinstance(saved, _Below):
            return saved.unpack(saved.packed)
        if not isinstance(saved, _Saved):
            return saved
        self.need(saved.unit)
        with torch.no_grad():
            t = torch.empty(0, dtype=saved.dtype)
            return t.set_(saved.held.view.untyped_storage(), saved.offset, saved.size, saved.stride)

    def need(self, unit):
        """Backward is in this unit, until it is in another one, or over."""
        if self.at is unit:
            return
        if not self.queued:
            torch.autograd.Variable._execution_engine.queue_callback(self.backward_over)
            self.queued = True
        self.leave()
        unit.lease()
        self.at = unit

    def leave(self):
        if self.at:
            unit, self.at = self.at, None
            unit.release()
            for call in self.between:
                call()

    def backward_over(self):
        self.queued = False
        self.leave()
        for call in self.between:
            call()

    # ---- the end

    def close(self):
        for handle in self.handles:
            handle.remove()
        self.recover()
        for held in self.held.values():
            held.view = held.address = None
            held.go()


def _blocks_of(model, blocks):
    """Names of the modules that are leased as a whole: those of the longest list, or as the caller says."""
    if blocks is not None:
        return list(blocks)
    best = []
    for name, m in model.named_modules():
        if isinstance(m, (nn.ModuleList, nn.Sequential)) and len(m) > len(best) and \
                not any(name.startswith(b + ".") for b in best):
            best = [f"{name}.{i}" if name else str(i) for i in range(len(m))]
    return best


def _manager(model):
    manager = getattr(model, "offload_manager", None)
    if manager is None:
        raise Error(f"{type(model).__name__} is not offloaded: see offload.attach and offload.load")
    return manager


def attach(model, ctx, *, blocks=None, prefix=""):
    """Moves the parameters of a model that is in memory into ctx, and returns it: from now on its blocks are leased as
    they run. blocks: names of the modules that are leased as a whole; default: the members of the longest ModuleList.
    prefix: of the tensors' names, where a context has several models. A block, its activations not counted, has to fit
    the device budget."""
    if getattr(model, "offload_manager", None):
        raise Error("the model is offloaded already")
    manager = Manager(ctx, model, blocks, prefix)
    manager.take(lambda wanted: [take(p.data) for _, p, take in wanted])
    _mark(model, manager)
    return model


def _mark(model, manager):
    object.__setattr__(model, "offload_manager", manager)
    object.__setattr__(model, "zero_grad", lambda set_to_none=True: _drop_gradients(model, set_to_none))
    # Its parameters are where their context has them. Trainers move models to the device that they are on.
    object.__setattr__(model, "to", lambda *args, **kw: _stay(model, *args, **kw))


def _drop_gradients(model, set_to_none):
    for held in model.offload_manager.held.values():
        held.has_gradient = False
    type(model).zero_grad(model, set_to_none)


def _stay(model, *args, **kw):
    device, dtype, _, _ = torch._C._nn._parse_to(*args, **kw)
    if (device is not None and device.type != "cpu") or dtype is not None:
        raise Error(f"an offloaded model is not moved or converted by to({', '.join(map(str, args))}): its parameters live in "
                    "the context; convert it before offload takes it, or give dtype= to offload.load")
    return model


class lease:
    """`with offload.lease(module):` its parameters are there, to be looked at; write=True: and changed."""

    def __init__(self, module, *, write=False):
        held = {id(p): p.offload_held for p in module.parameters() if hasattr(p, "offload_held")}
        if not held:
            raise Error("no parameter of the module is offloaded")
        self.held, self.mode = list(held.values()), _core.UPDATE if write else _core.READ

    def __enter__(self):
        self.now = self.held[0].core.acquire([h.tensor for h in self.held], self.mode, _core.LEASE_UNPLANNED)
        for i, (h, address) in enumerate(zip(self.held, self.now.addresses())):
            h.come(self.now, i, address)

    def __exit__(self, *_):
        for h in self.held:
            h.leave()
        self.now.release()
