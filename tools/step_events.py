#!/usr/bin/python3
"""Prints the events of a Llama's step as JSON, from its config.json: what is leased together, when, how, and
what the host works on in between. The same order as examples/model/generator.c and trainer_step.c.

    step_events.py decode CONFIG [--dtype ...] [--workspace BYTES]
    step_events.py train CONFIG --seq N --batch N --accum N [--clip] [--dtype ...] [--workspace BYTES]

tools/least.py solves such a file; docs/planner.md says what its fields mean.
"""
import argparse
import json

BYTES = {"f32": 4, "bf16": 2}
MIB = 1 << 20
READ, OVERWRITE, UPDATE, DROP = "read", "overwrite", "update", "drop"  # drop: read, and needed no more


class Shape:
    """The tensors of a Llama, in the order of examples/model/checkpoint.h: elements of each."""

    def __init__(self, config):
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        head_dim = config.get("head_dim") or hidden // heads
        q, kv = heads * head_dim, config.get("num_key_value_heads", heads) * head_dim
        ffn, vocab = config["intermediate_size"], config["vocab_size"]
        self.columns = hidden, q, ffn
        self.hidden, self.kv, self.layers = hidden, kv, config["num_hidden_layers"]
        self.tied = bool(config.get("tie_word_embeddings"))
        self.layer = [hidden, hidden * q, hidden * kv, hidden * kv, hidden * q, hidden, hidden * ffn, hidden * ffn,
                      hidden * ffn]
        self.elems = [vocab * hidden] + self.layer * self.layers + [hidden]
        if not self.tied:
            self.elems.append(vocab * hidden)

    def of_layer(self, n):
        first = 1 + len(self.layer) * n
        return range(first, first + len(self.layer))

    @property
    def norm(self):
        return 1 + len(self.layer) * self.layers

    @property
    def head(self):
        return 0 if self.tied else self.norm + 1


class Step:
    """Collects slots (leases that are held at the same time) and updates."""

    def __init__(self, held):
        self.held, self.tensors, self.slots, self.updates = held, {}, [], []

    def tensor(self, name, size, source=False):
        self.tensors[name] = {"bytes": size, "source": source}

    def part(self, held, moving=None, micros=1):
        """held: leases over all micro-batches, moving(m): those of one. [(tensor, mode)]"""
        first = len(self.slots)
        for m in range(micros):
            self.slots.append({"leases": list(moving(m)) if moving else []})
        self.slots[first]["leases"] += [(name, mode, len(self.slots) - 1) for name, mode in held]

    def json(self):
        return {"device_held": self.held, "tensors": self.tensors, "slots": self.slots, "updates": self.updates}


class Slices:
    """Tensors cut by rows, as examples/model/slices.c does, and what is leased of them at a time, as
    generator_need.c does: units are slices, with the norm in front of the first one of a matrix."""

    def __init__(self, shape, each):
        self.shape, self.each = shape, each
        total = sum(shape.elems) * each
        self.limit = max(min(max(total // 256, MIB), 8 * MIB), total // 1024)

    def place(self, i):
        return (i - 1) % len(self.shape.layer) if 0 < i < self.shape.norm else None

    def is_norm(self, i):
        return self.place(i) in (0, 5) or i == self.shape.norm

    def cut(self, i):
        """[(name, bytes)] of tensor i."""
        shape, elems = self.shape, self.shape.elems[i]
        place = self.place(i)
        if self.is_norm(i):
            return [(f"w{i}", elems * self.each)]
        hidden, q, ffn = shape.columns
        columns = {4: q, 8: ffn}.get(place, hidden)
        rows, count = elems // columns, -(-elems * self.each // self.limit)
        of_slice = rows if count == 1 else (-(-rows // count) + 15) // 16 * 16
        return [(f"w{i}.{at}", min(of_slice, rows - at) * columns * self.each) for at in range(0, rows, of_slice)]

    def parts(self):
        """Units of each layer, then of the head."""
        shape = self.shape
        for n in range(shape.layers):
            yield self.units(shape.of_layer(n))
        yield self.units((shape.norm, shape.head))

    def units(self, tensors):
        units, norm = [], []
        for i in tensors:
            cut = self.cut(i)
            if self.is_norm(i):
                norm = cut
                continue
            for piece in cut:
                units.append(norm + [piece])
                norm = []
        return units

    def batches(self):
        parts = list(self.parts())
        most = max(sum(size for _, size in unit) for units in parts for unit in units)
        for units in parts:
            batch = []
            for unit in units:
                if batch and sum(size for _, size in batch + unit) > most:
                    yield batch
                    batch = []
                batch = batch + unit
            yield batch


def decode(config, dtypes, workspace, cache, source):
    """Of an embedding that is no head only rows are read."""
    shape, step = Shape(config), Step(workspace + cache)
    for batch in Slices(shape, dtypes).batches():
        for name, size in batch:
            step.tensor(name, size, source)
        step.part([(name, READ) for name, _ in batch])
    return step.json()


class Train:
    def __init__(self, config, a):
        self.shape, self.a, self.step = Shape(config), a, Step(a.workspace)
        each, low = BYTES[a.dtype], a.dtype != "f32"
        for i, elems in enumerate(self.shape.elems):
            self.step.tensor(f"w{i}", elems * each)
            self.step.tensor(f"g{i}", elems * 4)
            for state in ("m", "v", "p") if low else ("m", "v"):
                self.step.tensor(f"{state}{i}", elems * 4)
        activations = a.batch * a.seq * self.shape.hidden * 4
        for m in range(a.accum):
            for n in range(self.shape.layers + 1):
                self.step.tensor(f"x{n}.{m}", activations)
            self.step.tensor(f"dx{m}", activations)

    def apply(self, tensors):
        """An update needs the gradient on the host; the norm of all of them first, where that clips."""
        low = self.a.dtype != "f32"
        for i in tensors:
            work = [(f"w{i}", OVERWRITE if low else UPDATE), (f"g{i}", DROP), (f"m{i}", UPDATE), (f"v{i}", UPDATE)]
            self.step.updates.append({"after": -1 if self.a.clip else len(self.step.slots) - 1,
                                      "work": work + ([(f"p{i}", UPDATE)] if low else [])})

    def run(self):
        shape, step, accum = self.shape, self.step, self.a.accum
        step.part([("w0", READ)], lambda m: [(f"x0.{m}", OVERWRITE)], accum)
        for n in range(shape.layers):
            step.part([(f"w{i}", READ) for i in shape.of_layer(n)],
                      lambda m, n=n: [(f"x{n}.{m}", READ), (f"x{n + 1}.{m}", OVERWRITE)], accum)
        step.part([(f"w{shape.norm}", READ), (f"w{shape.head}", READ), (f"g{shape.norm}", OVERWRITE),
                   (f"g{shape.head}", OVERWRITE)],
                  lambda m: [(f"x{shape.layers}.{m}", DROP), (f"dx{m}", OVERWRITE)], accum)
        self.apply([shape.norm] + ([] if shape.tied else [shape.head]))
        for n in reversed(range(shape.layers)):
            step.part([(f"w{i}", READ) for i in shape.of_layer(n)] +
                      [(f"g{i}", OVERWRITE) for i in shape.of_layer(n)],
                      lambda m, n=n: [(f"x{n}.{m}", DROP), (f"dx{m}", UPDATE)], accum)
            self.apply(shape.of_layer(n))
        step.part([("g0", UPDATE if shape.tied else OVERWRITE)], lambda m: [(f"dx{m}", DROP)], accum)
        self.apply([0])
        for u in step.updates:
            if u["after"] < 0:
                u["after"] = len(step.slots) - 1
        return step.json()


def train(config, a):
    return Train(config, a).run()


def acquires(step):
    """Leases to read or update of a step, as hits + misses count them, and tensors updated. The optimizer's
    own: each gradient is leased once, for its sum of squares."""
    leases = sum(lease[1] != OVERWRITE for slot in step["slots"] for lease in slot["leases"])
    return leases + len(step["updates"]), len(step["updates"])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("kind", choices=("decode", "train"))
    p.add_argument("config", help="config.json of the model")
    p.add_argument("--dtype", choices=BYTES, default="bf16", help="of weights")
    p.add_argument("--workspace", type=int, default=0, help="bytes of device memory that are held for good")
    p.add_argument("--cache", type=int, default=0, help="of keys and values, likewise")
    p.add_argument("--store", action="store_true", help="decode: weights lie in the store, not in a source")
    p.add_argument("--seq", type=int, default=128)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--accum", type=int, default=1)
    p.add_argument("--clip", action="store_true", help="updates wait for the norm of all gradients")
    a = p.parse_args()
    with open(a.config, encoding="utf-8") as f:
        config = json.load(f)
    print(json.dumps(decode(config, BYTES[a.dtype], a.workspace, a.cache, not a.store) if a.kind == "decode"
                     else train(config, a), indent=1))


if __name__ == "__main__":
    main()
