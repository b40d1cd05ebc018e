"""AdamW whose states live in a context: over offloaded models, and over parameters that stay where they are."""
import torch

from . import _core
from ._parameters import DTYPES, Error, tensor_view


def _parameters(group):
    """Of a group as torch takes them, named ones too."""
    params = group["params"] if isinstance(group, dict) else group[1] if isinstance(group, tuple) else group
    if isinstance(params, torch.Tensor):
        return [params]
    if not isinstance(params, (list, tuple)):
        raise TypeError("a group's parameters have to be a list")
    return [p[1] if isinstance(p, tuple) else p for p in params]


class _Resident:
    """A parameter that stays in memory: the library has a copy that it updates."""

    def __init__(self, core, name, p, kept):
        self.name, self.parameter, self.core = name, p, core
        self.shape, self.dtype = tuple(p.shape), p.dtype
        self.tensor = core.tensor(name, _core.KIND_WEIGHT, _core.DTYPES[DTYPES[p.dtype]], p.numel(),
                                  _core.TENSOR_KEPT if kept else 0)
        self.gradient, self.leases = None, 0
        if not self.tensor.resumed():
            self.write(self.tensor, p.data)

    @staticmethod
    def write(tensor, data):
        data = data.detach().contiguous()
        tensor.write(0, data.data_ptr(), data.numel() * data.element_size())

    def send(self):
        """Its gradient, if it has one, to the library's."""
        if self.parameter.grad is None:
            return False
        self.write(self.gradient, self.parameter.grad.float())
        return True

    def fetch(self):
        data = self.parameter.data
        if not data.is_contiguous():
            raise Error(f"{self.name}: a parameter that is not contiguous")
        self.tensor.read(0, data.data_ptr(), data.numel() * data.element_size())


def _rates(group):
    """What a step reads of a group: schedulers may have made tensors of it."""
    return (float(group["lr"]), *(float(b) for b in group["betas"]), float(group["eps"]), float(group["weight_decay"]))


class AdamW(torch.optim.Optimizer):
    """AdamW as torch.optim.AdamW computes it, in float32 with exact clipping, its states on any tier.

    model: what offload.attach or offload.load gave: gradients go to the context as backward makes them, and `.grad` stays
    None. Or parameters, or groups of them, as torch.optim.AdamW takes: `[{"params": [...], "lr": 1e-4}, ...]` with lr, betas,
    eps and weight_decay of their own. Parameters that are in memory need ctx: they keep their gradients, and the states
    alone are offloaded.
    clip: the global norm that gradients of all groups are scaled down to; 0: none. torch.nn.utils.clip_grad_norm_ is refused
    where gradients are in the context.
    no_decay: names of parameters that weight decay spares: norms and biases, as is common.
    reduce: several processes: called with each gradient, piece by piece: flat float32 tensors of at most 1 MiB, which it
    changes in place to what all processes have together, as torch.distributed.all_reduce does. In the order of the
    parameters, the same in each process, which has to have gradients of the same ones; on a thread of the library's; a
    piece is not to be kept. If it raises, nothing is updated, and step raises Error from that.
    in_backward: updates start as backward makes gradients, and run beside it. For loops with one backward for each step,
    without clip and reduce: a second one before step() is refused, and a step that is left out has been made all the same,
    of what has come. The same bits. Of a model that is offloaded.
    name: of its states in a commit, where a context has several optimizers.

    Rates are read from param_groups in each step, so torch's schedulers work. A parameter without a gradient is left
    alone; the bias correction counts the optimizer's steps, not the parameter's."""

    def __init__(self, model, ctx=None, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, clip=0.0,
                 no_decay=(), reduce=None, in_backward=False, name="adamw"):
        if in_backward and (clip or reduce is not None):
            raise Error("in_backward starts updates before the last gradient is there: it goes without clip and reduce")
        names, groups = {}, model
        if isinstance(model, torch.nn.Module):
            names = {id(p): n for n, p in model.named_parameters()}
            groups = [p for p in model.parameters() if p.requires_grad]
        groups = [{**g, "params": g["params"] if isinstance(g["params"], torch.Tensor) else list(g["params"])}
                  if isinstance(g, dict) else g for g in groups]
        self.ctx, self.parts, self.name, self.names, self.seen = ctx, [], name, names, 0
        held = next((p.offload_held for g in groups for p in _parameters(g) if hasattr(p, "offload_held")), None)
        if held:
            if ctx not in (None, held.ctx):
                raise Error(f"{held.name} is offloaded in another context than the one given")
            self.ctx = held.ctx
        if self.ctx is None:
            if isinstance(model, torch.nn.Module) and groups:
                raise Error(f"{type(model).__name__} is not offloaded: see offload.attach; or give ctx, for its states alone")
            raise Error("AdamW over parameters that are in memory needs ctx, for its states")
        if name in self.ctx.optimizers:
            raise Error(f"the context has an optimizer {name!r} already: give this one another name")
        self.in_backward, self.waiting, self.applied = in_backward, [], None  # applied: of a step that is open
        self.count = (self.ctx.note or {}).get("optimizers", {}).get(name, 0)
        self.core_optimizer, self.no_decay, self.spared = self.ctx.core.optimizer(), set(no_decay), set()
        super().__init__(groups, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "clip": clip})
        strangers = self.no_decay - self.spared
        if strangers:
            raise Error(f"no_decay: {min(strangers)} is none of the parameters that are trained")
        self.reduce = reduce
        if reduce is not None:
            self.core_optimizer.reduce(lambda memory, _: reduce(tensor_view(memory, (len(memory) // 4,), torch.float32)))
        self.ctx.optimizers[name] = self

    def add_param_group(self, param_group):
        if isinstance(param_group.get("params"), torch.Tensor):
            param_group = {**param_group, "params": [param_group["params"]]}
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            self.seen += 1
            if not p.requires_grad:
                continue
            held = getattr(p, "offload_held", None)
            if held is None:
                held = _Resident(self.ctx.core, self.names.get(id(p), f"{self.name}.{self.seen - 1}"), p, self.ctx.kept)
            elif held.ctx is not self.ctx:
                raise Error(f"{held.name} is offloaded in another context than this optimizer's")
            held.group, held.rates = self.param_groups[-1], None
            self._bind(self.ctx.core, held)
            name = self.names.get(id(p), held.name)
            if name in self.no_decay:
                self.spared.add(name)
                self.core_optimizer.decay(held.tensor, 0.0)
            self.parts.append(held)
            if not isinstance(held, _Resident):
                p.register_post_accumulate_grad_hook(lambda _, held=held: self._gradient(held))
                if self.in_backward and self._updates not in held.manager.between:
                    held.manager.between.append(self._updates)

    def _bind(self, core, held):
        if held.dtype not in (torch.float32, torch.bfloat16):
            raise Error(f"{held.name}: AdamW takes float32 and bfloat16, not {held.dtype}")
        if getattr(held, "in_place", False):
            raise Error(f"{held.name}: it is read in place: load the model with trainable=True")
        if held.gradient is not None:
            raise Error(f"{held.name}: another optimizer updates it already")
        elems = int(torch.Size(held.shape).numel())
        gradient = core.tensor(held.name + ".grad", _core.KIND_GRADIENT, _core.DTYPES["f32"], elems, 0)
        self.core_optimizer.bind(held.tensor, gradient)
        held.gradient = gradient
        master = self.core_optimizer.state(held.tensor, _core.STATE_MASTER)
        if held.dtype == torch.bfloat16 and not master.resumed():
            data = torch.empty(held.shape, dtype=held.dtype)
            held.tensor.read(0, data.data_ptr(), data.numel() * data.element_size())
            _Resident.write(master, data.float())

    def _gradient(self, held):
        if self.applied and id(held) in self.applied:
            raise Error(f"{held.name}: a second backward before step(), and in_backward has updated it by the first one's "
                        "gradient: leave in_backward out to accumulate")
        held.take_gradient()
        if self.in_backward:
            self.waiting.append(held)

    def _updates(self):
        """Under backward, between two units: of the gradients that have come."""
        ready = [h for h in self.waiting if not h.leases]
        if not ready:
            return
        self.waiting = [h for h in self.waiting if h.leases]
        if self.applied is None:
            self.core_optimizer.begin(*self._settings())
            self.count += 1
            self.applied = set()
        self.core_optimizer.apply([h.tensor for h in ready])
        self.applied.update(id(h) for h in ready)

    @torch.no_grad()
    def step(self, closure=None):
        """One update of all parameters that have gradients. Returns the closure's loss, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        managers = {id(m): m for m in (getattr(h, "manager", None) for h in self.parts) if m}.values()
        for manager in managers:
            manager.recover()  # what an interrupted forward has left
        leased = next((h.name for h in self.parts if h.leases), None)
        if leased:
            raise Error(f"{leased} is leased: end its lease before the optimizer's step")
        ready = [h for h in self.parts if h.send()]
        if self.in_backward:
            self._rest(ready)
        elif ready:
            self.core_optimizer.step([h.tensor for h in ready], *self._settings())
            self.count += 1
        for held in ready:
            held.fetch()
        for manager in managers:
            manager.rest()
        return loss

    def _rest(self, ready):
        """What backward has not updated, and the end of the step that it has opened."""
        self.waiting = [h for h in ready if not (self.applied and id(h) in self.applied)]
        self._updates()
        if self.applied is not None:
            self.applied = None
            self.core_optimizer.end()

    def _settings(self):
        """Of the next step; groups' own rates are the library's already."""
        first = self.param_groups[0]
        if any(g["clip"] != first["clip"] for g in self.param_groups):
            raise Error("groups of parameters with different clip: the norm that gradients are clipped to is that of all of them")
        if self.in_backward and first["clip"]:
            raise Error(f"clip {first['clip']}: in_backward starts updates before the norm is known: leave one of them out")
        if len(self.param_groups) > 1:
            for held in self.parts:
                rates = _rates(held.group)
                if rates != held.rates:
                    self.core_optimizer.rates(held.tensor, *rates)
                    held.rates = rates
        return (*_rates(first), first["clip"], self.count + 1)

    def progress(self, loss=None):
        """Context.progress, with the optimizer's steps, and the loss if it is given."""
        text = f"step {self.count}" if loss is None else f"step {self.count} loss {float(loss):.4f}"
        self.ctx.progress(text)

    def norm(self):
        """The gradients' global norm of the last step, before clipping. Waits for it."""
        return self.core_optimizer.norm()

    def zero_grad(self, set_to_none=True):
        """Gradients that no step has taken are dropped."""
        if self.in_backward:
            self._rest([])
        for held in self.parts:
            held.has_gradient = False
        super().zero_grad(set_to_none)

    def state_of(self, parameter):
        """Copies of a parameter's states: {"exp_avg", "exp_avg_sq"} in float32, and "master" of a bfloat16 one."""
        held = next((h for h in self.parts if h.parameter is parameter), None)
        if held is None:
            raise Error("the parameter is not one of this optimizer's")
        which = {"exp_avg": _core.STATE_EXP_AVG, "exp_avg_sq": _core.STATE_EXP_AVG_SQ}
        if held.dtype == torch.bfloat16:
            which["master"] = _core.STATE_MASTER
        out = {}
        for key, number in which.items():
            out[key] = torch.empty(held.shape)
            tensor = self.core_optimizer.state(held.tensor, number)
            tensor.read(0, out[key].data_ptr(), out[key].numel() * 4)
        return out
