"""PyTorch models under hard memory budgets: parameters, gradients and optimizer states on device, RAM and NVMe.

    ctx = offload.open(device="8GiB", host="16GiB", nvme="/mnt/run")
    model = offload.load(AutoModelForCausalLM, "model-dir", ctx)
    opt = offload.AdamW(model, lr=1e-5, clip=1.0)
    ...
    loss.backward(); opt.step()

See python/README.md for what works, and for what does not yet.
"""
from ._activations import activations
from ._context import Context, open
from ._core import BudgetError, Error, version as __version__
from ._files import load, save
from ._model import attach, lease
from ._optimizer import AdamW
from ._plan import plan


def __getattr__(name):
    if name == "Trainer":  # needs transformers
        from ._trainer import Trainer
        return Trainer
    raise AttributeError(f"module 'offload' has no attribute {name!r}")


__all__ = ["AdamW", "BudgetError", "Context", "Error", "activations", "attach", "lease", "load", "open", "plan",
           "save"]
