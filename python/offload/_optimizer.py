"""AdamW whose states live in a context: over offloaded models, and over parameters that stay where they are."""
import torch

from . import _core
from ._parameters import DTYPES, Error


class _Resident:
    """A parameter that stays in memory: the library has a copy that it updates."""

    def __init__(self, core, name, p, kept):
        self.name, self.parameter, self.core = name, p, core
        self.shape, self.dtype = tuple(p.shape), p.dtype
        self.tensor = core.tensor(name, _core.KIND_WEIGHT, _core.DTYPES[DTYPES[p.dtype]], p.numel(),
                                  _core.TENSOR_KEPT if kept else 0)
        self.gradient = None
        if not self.tensor.resumed():
            self.write(self.tensor, p.data)

    @staticmethod
    def write(tensor, data):
        data = data.detach().contiguous()
        tensor.write(0, data.data_ptr(), data.numel() * data.element_size())

    def send(self):
        if self.parameter.grad is None:
            return False
        self.write(self.gradient, self.parameter.grad.float())
        return True

    def fetch(self):
        data = self.parameter.data
        if not data.is_contiguous():
            raise Error(f"{self.name}: a parameter that is not contiguous")
        self.tensor.read(0, data.data_ptr(), data.numel() * data.element_size())


class AdamW(torch.optim.Optimizer):
    """AdamW as torch.optim.AdamW computes it, in float32 with exact clipping, its states on any tier.

    model: what offload.attach or offload.load gave: gradients go to the context as backward makes them, and `.grad` stays
    None. Or parameters that are in memory, and ctx: those keep their gradients, and the states alone are offloaded.
    clip: the global norm that gradients are scaled down to; 0: none. torch.nn.utils.clip_grad_norm_ sees no gradients of
    an offloaded model.
    no_decay: names of parameters that weight decay spares: norms and biases, as is common.
    reduce: called by step with each gradient, a flat float32 tensor in memory, in the order of the parameters: changes it
    in place to what all processes have together, as torch.distributed.all_reduce does. Each of them has to have gradients
    of the same parameters.
    name: of its states in a commit, where a context has several optimizers.

    One group of parameters: lr and weight_decay are param_groups[0]'s, so torch's schedulers work. A parameter without a
    gradient is left alone; the bias correction counts the optimizer's steps, not the parameter's."""

    def __init__(self, model, ctx=None, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, clip=0.0,
                 no_decay=(), reduce=None, name="adamw"):
        manager = getattr(model, "offload_manager", None)
        if isinstance(model, torch.nn.Module) and manager is None and ctx is None:
            raise Error(f"{type(model).__name__} is not offloaded: see offload.attach; or give ctx, for its states alone")
        named = list(model.named_parameters()) if isinstance(model, torch.nn.Module) else \
            [(f"{name}.{i}", p) for i, p in enumerate(model)]
        named = [(n, p) for n, p in named if p.requires_grad]
        self.manager, self.ctx = manager, manager.ctx if manager else ctx
        if self.ctx is None:
            raise Error("AdamW over parameters that are in memory needs ctx, for its states")
        super().__init__([p for _, p in named], {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay,
                                                 "clip": clip})
        core = self.ctx.core
        if name in self.ctx.optimizers:
            raise Error(f"the context has an optimizer {name!r} already: give this one another name")
        self.count = (self.ctx.note or {}).get("optimizers", {}).get(name, 0)
        self.core_optimizer, self.reduce = core.optimizer(), reduce
        self.parts = []
        strangers = set(no_decay) - {n for n, _ in named}
        if strangers:
            raise Error(f"no_decay: {min(strangers)} is none of the parameters that are trained")
        for n, p in named:
            held = p.offload_held if manager else _Resident(core, n, p, self.ctx.kept)
            self._bind(core, held)
            if n in no_decay:
                self.core_optimizer.decay(held.tensor, 0.0)
            self.parts.append(held)
            if manager:
                p.register_post_accumulate_grad_hook(lambda _, held=held: held.take_gradient())
        self.ctx.optimizers[name] = self

    def _bind(self, core, held):
        if held.dtype not in (torch.float32, torch.bfloat16):
            raise Error(f"{held.name}: AdamW takes float32 and bfloat16, not {held.dtype}")
        if getattr(held, "in_place", False):
            raise Error(f"{held.name}: it is read in place: load the model with trainable=True")
        elems = held.tensor_elems = int(torch.Size(held.shape).numel())
        held.gradient = core.tensor(held.name + ".grad", _core.KIND_GRADIENT, _core.DTYPES["f32"], elems, 0)
        self.core_optimizer.bind(held.tensor, held.gradient)
        master = self.core_optimizer.state(held.tensor, _core.STATE_MASTER)
        if held.dtype == torch.bfloat16 and not master.resumed():
            data = torch.empty(held.shape, dtype=held.dtype)
            held.tensor.read(0, data.data_ptr(), data.numel() * data.element_size())
            _Resident.write(master, data.float())

    @torch.no_grad()
    def step(self, closure=None):
        """One update of all parameters that have gradients. Returns the closure's loss, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        ready = [h for h in self.parts if (h.has_gradient if self.manager else h.send())]
        if self.reduce is not None:
            for held in ready:
                self._reduce(held)
        if ready:
            g = self.param_groups[0]
            self.core_optimizer.begin(g["lr"], *g["betas"], g["eps"], g["weight_decay"], g["clip"], self.count + 1)
            for held in ready:
                self.core_optimizer.apply(held.tensor)
            self.core_optimizer.end()
            self.count += 1
        for held in ready:
            if self.manager:
                held.has_gradient = False
            else:
                held.fetch()
        if self.manager:
            self.manager.rest()
        return loss

    def _reduce(self, held):
        gradient = torch.empty(held.tensor_elems)
        held.gradient.read(0, gradient.data_ptr(), 4 * held.tensor_elems)
        self.reduce(gradient)
        held.gradient.write(0, gradient.data_ptr(), 4 * held.tensor_elems)

    def norm(self):
        """The gradients' global norm of the last step, before clipping. Waits for it."""
        return self.core_optimizer.norm()

    def zero_grad(self, set_to_none=True):
        """Gradients that no step has taken are dropped."""
        if self.manager:
            for held in self.parts:
                held.has_gradient = False
        else:
            super().zero_grad(set_to_none)

    def add_param_group(self, param_group):
        if self.param_groups:
            raise Error("AdamW has one group of parameters: the norm that gradients are clipped to is of all of them")
        super().add_param_group(param_group)

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
