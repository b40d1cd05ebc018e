"""Contexts: budgets, statistics, commits."""
import json

from . import _core
from ._progress import Progress
from ._size import size

def _directories(nvme):
    if nvme is None:
        return []
    return [(str(d[0]), size(d[1])) if isinstance(d, tuple) else (str(d), 0)
            for d in (nvme if isinstance(nvme, list) else [nvme])]


class Context:
    """Budgets, and what lives in them. One thread at a time uses a context; see offload.open."""

    def __init__(self, core, kept):
        self.core = core
        self.kept = kept
        self.models = []  # managers, to be told of the end
        self.line = Progress()
        self.optimizers = {}  # by name: what a commit's note has of each
        was = core.resume() if kept else None
        self.generation, self.note = (was[0], json.loads(was[1])) if was else (0, None)

    @property
    def resumed(self):
        """The name of the commit that this context goes on from; None: it begins anew."""
        return self.note["name"] if self.note else None

    def commit(self, name):
        """Makes weights, masters and optimizer states as they are now durable, under a name; returns at once. Needs
        keep=; between optimizer steps. What is written after it does not touch what was committed."""
        note = {"name": str(name), "optimizers": {k: o.count for k, o in self.optimizers.items()}}
        for model in self.models:
            model.rest()
        self.core.commit(json.dumps(note).encode())

    def commit_wait(self):
        """Waits until the last commit is durable; returns its generation, from 1. Raises what it failed with."""
        return self.core.commit_wait()

    def stats(self):
        """Counters as a dict: budgets, use and peaks of each tier, bytes moved on each link, hits, misses, stall_ns."""
        return self.core.stats()

    def stalls(self):
        """What was waited for longest: a list of (tensor, reason, count, ns)."""
        return self.core.stalls()

    def progress(self, text=""):
        """A line on standard error, where that is a terminal: text, what each tier holds, the share of time that was waited,
        and what drives do. Written over itself, at most six times a second; call it as often as you like."""
        self.line.show(self.core, text)

    def timeline(self, path):
        """A context manager: what happens inside is written to a file for https://ui.perfetto.dev."""
        return _Timeline(self.core, str(path))

    def close(self):
        """Ends it, and all of its tensors. Parameters of its models can't be used any more."""
        self.line.end()
        for model in self.models:
            model.close()
        self.models = []
        self.core.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class _Timeline:
    def __init__(self, core, path):
        self.core, self.path = core, path

    def __enter__(self):
        self.core.timeline_open(self.path)
        return self

    def __exit__(self, *_):
        self.events, self.dropped = self.core.timeline_close()


def open(device, host=0, nvme=None, *, keep=None, keep_bytes=0, workers=0, expected=0):  # noqa: A001
    """A context with hard budgets.

    device: bytes of the arena that modules compute in ("8GiB"); on CPU torch that is RAM, too.
    host: bytes of RAM that everything passes through; at least 2 MiB, or 0: everything
    lives on the device, and its budget has to hold all of it.
    nvme: a directory, a (directory, bytes) pair, or a list of those: scratch space, gone with the context.
    keep: a directory that outlives the process, for commit(): see Context.commit and Context.resumed.
    expected: bytes of all weights, gradients and states together, if known: tiers are then shared out evenly.

    Raises BudgetError where a budget can't work on this machine, Error for all else, each with the reason.
    """
    # Without host memory everything lives on the device; else nothing does, so that leases have all of it.
    leased = size(device) if size(host) else 0
    core = _core.open("host", size(device), size(host), _directories(nvme), str(keep) if keep else None, size(keep_bytes),
                      workers, 0, size(expected), leased, 0)
    return Context(core, bool(keep))
