"""Parameters whose bytes are the library's: views of leased memory while leased, and otherwise away."""
import torch
from torch.nn import Parameter

from . import _core

Error = _core.Error

DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16", torch.float64: "f64"}

# What may be asked of a parameter that is away: all but its values.
_KNOWN = {getattr(torch.Tensor, name).__get__ for name in (
    "shape", "dtype", "device", "requires_grad", "grad", "is_leaf", "ndim", "layout", "grad_fn", "is_sparse", "is_quantized",
    "is_meta", "is_cuda", "is_cpu", "is_nested", "names", "_backward_hooks", "_post_accumulate_grad_hooks", "itemsize",
    "nbytes") if hasattr(torch.Tensor, name)}
_KNOWN |= {getattr(torch.Tensor, name) for name in (
    "size", "dim", "numel", "nelement", "stride", "element_size", "is_floating_point", "is_complex", "__len__", "__hash__",
    "register_post_accumulate_grad_hook", "requires_grad_", "is_contiguous") if hasattr(torch.Tensor, name)}
_KNOWN |= {getattr(torch.Tensor, name).__set__ for name in ("grad", "requires_grad")}
_KNOWN |= {torch.is_floating_point, torch.is_complex, torch.numel}


_GRAD = torch.Tensor.grad


class Away(Parameter):
    """A parameter while nothing leases it: knows its shape and dtype, and refuses the rest by name."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func == _GRAD.__get__ and args[0].offload_held.has_gradient:
            # Who finds none would clip, scale or look at nothing, and say nothing.
            raise Error(f"{args[0].offload_held.name}: its gradient is in the context, not in .grad: clip by AdamW(clip=), "
                        "drop it by zero_grad() of the optimizer or the whole model")
        if func == _GRAD.__set__ and args[1] is None:
            args[0].offload_held.has_gradient = False
        if func in _KNOWN:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        if func is torch.Tensor.detach:  # state dicts have what is away, too: who wants its values is refused
            return args[0]
        names = sorted({a.offload_held.name for a in _flat((args, kwargs or {})) if isinstance(a, Away)})
        raise Error(f"{', '.join(names)}: {_name_of(func)} needs its values, and nothing leases it: "
                    "use it inside its module's forward, or in `with offload.lease(module):`")

    def __repr__(self):
        return f"Away({self.offload_held.name}, {tuple(self.shape)}, {self.dtype})"


def _name_of(func):
    """`data` of the getter and setter of Tensor.data."""
    owner = getattr(func, "__self__", None)
    return getattr(owner if hasattr(owner, "__objclass__") else func, "__name__", str(func))


def _flat(x):
    if isinstance(x, (list, tuple)):
        for y in x:
            yield from _flat(y)
    elif isinstance(x, dict):
        yield from _flat(list(x.values()))
    else:
        yield x


def tensor_view(memory, shape, dtype):
    """The torch tensor of a lease's memory."""
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class Held:
    """One parameter: its tensor, its gradient's, and whether something leases it."""

    def __init__(self, manager, name, parameter, tensor=None):
        if parameter.dtype not in DTYPES:
            raise Error(f"{name}: parameters of {parameter.dtype} can't be offloaded: float32, bfloat16, float16 or "
                        "float64")
        if not parameter.numel():
            raise Error(f"{name}: a parameter without elements")
        self.name, self.parameter = name, parameter
        self.shape, self.dtype = tuple(parameter.shape), parameter.dtype
        self.manager, self.ctx, self.core = manager, manager.ctx, manager.core
        self.in_place = tensor is not None  # of a file that is read, never written
        self.tensor = tensor or self.core.tensor(name, _core.KIND_WEIGHT, _core.DTYPES[DTYPES[parameter.dtype]],
                                            parameter.numel(), _core.TENSOR_KEPT if self.ctx.kept else 0)
        self.gradient, self.has_gradient = None, False
        self.leases = 0
        self.view = self.address = None
        # One element stands for all: NaN, so that nothing that comes by its values goes unseen.
        self.nothing = torch.full((1,), float("nan"), dtype=self.dtype).expand(self.shape)

    def send(self):
        """Whether the library's gradient is one that a step is to take."""
        return self.has_gradient

    def fetch(self):
        """The update was made where the parameter lives."""
        self.has_gradient = False

    def fill(self, data):
        data = data.detach().contiguous()
        self.tensor.write(0, data.data_ptr(), data.numel() * data.element_size())

    def take(self, data):
        """As fill; what it was in memory is given up."""
        self.fill(data)
        self.go()

    def read(self):
        """Its values, copied."""
        data = torch.empty(self.shape, dtype=self.dtype)
        self.tensor.read(0, data.data_ptr(), data.numel() * data.element_size())
        return data

    def go(self):
        self.parameter.__class__ = Parameter
        self.parameter.data = self.nothing
        self.parameter.__class__ = Away

    def come(self, lease, index, address):
        self.leases += 1
        if self.leases > 1 and address == self.address:
            return
        if address != self.address:
            self.view, self.address = tensor_view(lease.memory(index), self.shape, self.dtype), address
        self.parameter.__class__ = Parameter
        self.parameter.data = self.view

    def leave(self):
        self.leases -= 1
        if self.leases == 0:
            self.go()

    def take_gradient(self):
        """What autograd has accumulated goes to the library's gradient, past the device: a block is leased there."""
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
            grad = self.parameter.grad
            if grad is None:
                return
            if self.has_gradient:
                total = torch.empty(self.shape)
                self.gradient.read(0, total.data_ptr(), total.numel() * 4)
                total.add_(grad)
            else:
                total = grad.float().contiguous()
            self.gradient.write(0, total.data_ptr(), total.numel() * 4)
            self.parameter.grad = None
        self.has_gradient = True
