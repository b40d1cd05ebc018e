#!/usr/bin/python3
"""The least bytes that a step must move, over the drive and over the link, under budgets of device and host
memory: a linear program over the step's events. Knows nothing of the planner that it judges. The method is in
docs/planner.md, "The least possible". tools/check_least.py holds it against closed forms and an exhaustive search. Needs python3-scipy.

    step_events.py decode config.json | least.py --device-mem BYTES --host-mem BYTES
"""
import argparse
import json
import sys

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

ALIGN = 256  # of a range of device memory
UNIT = 1 << 20  # of the goal: numbers near 1 are what the solver is made for


def footprint(n):
    return (n + ALIGN - 1) // ALIGN * ALIGN


# ---- uses of a tensor -------------------------------------------------------------------------------


class Use:
    """Slot t is at time 2t, the host's work after it at 2t + 1. start: a lease's first slot, end: its last."""

    def __init__(self, start, end, host, mode):
        self.start, self.end, self.host = start, end, host
        self.reads = mode != "overwrite"
        self.writes = mode in ("overwrite", "update")
        self.drops = mode == "drop"
        self.key = (start, end, host, mode)


class Variant:
    """Tensors that are used alike, with the host's work at one of the times that it may have."""

    def __init__(self, size, source, uses, choice):
        self.size, self.source, self.choice = size, source, choice
        self.uses = sorted(uses, key=lambda u: u.start)


def lease_uses(step):
    uses = {name: [] for name in step["tensors"]}
    for t, slot in enumerate(step["slots"]):
        for name, mode, *last in slot["leases"]:
            uses[name].append(Use(2 * t, 2 * (last[0] if last else t), False, mode))
    return uses


def variants(step):
    """Of each tensor: its uses, once with updates as early as may be, once as late. Tensors alike are merged."""
    leases, groups, period = lease_uses(step), {}, 2 * len(step["slots"])
    host = {name: [] for name in step["tensors"]}
    for n, u in enumerate(step["updates"]):
        early = 2 * u["after"] + 1
        first = min((x.start for name, mode in u["work"] if mode != "drop" for x in leases[name]), default=period)
        late = (first - 1) % period
        for name, mode in u["work"]:
            host[name].append((n, mode, (early, late)))
    for name, tensor in step["tensors"].items():
        work = host[name]
        moments = [when for _, _, when in work]
        sides = 1 if not work or not leases[name] or all(a == b for a, b in moments) else 2
        # Tensors of one update share the choice; so do updates at the same times.
        choice = tuple(sorted(set(moments))) if sides == 2 else None
        for side in range(sides):
            uses = leases[name] + [Use(w[side], w[side], True, mode) for _, mode, w in work]
            if not uses:
                continue
            key = (tensor["source"], choice, side, tuple(sorted(u.key for u in uses)))
            if key in groups:
                groups[key].size += tensor["bytes"]
            else:
                groups[key] = Variant(tensor["bytes"], tensor["source"], uses, (choice, side) if choice else None)
    return list(groups.values())


# ---- the linear program -----------------------------------------------------------------------------


class Program:
    def __init__(self):
        self.count, self.rows, self.bound, self.cost = 0, [], [], {"drive": {}, "link": {}}
        self.parts = {"in": {}, "out": {}, "read": {}, "write": {}}
        self.equal = []

    def var(self):
        self.count += 1
        return self.count - 1

    def at_most(self, terms, bound=0.0):
        self.rows.append(terms)
        self.bound.append(bound)

    def pays(self, part, var, amount):
        cost = self.cost["drive" if part in ("read", "write") else "link"]
        for table in (cost, self.parts[part]):
            table[var] = table.get(var, 0.0) + amount

    def solve(self, goal):
        """As little as can be over one of them, and, where that leaves a choice, over the other."""
        c = np.zeros(self.count)
        for table, weight in ((self.cost[goal], 1.0), (self.cost["link" if goal == "drive" else "drive"], 1e-6)):
            for v, amount in table.items():
                c[v] += weight * amount
        a, b = matrix(self.rows, self.count), np.array(self.bound)
        e = matrix([terms for terms, _ in self.equal], self.count)
        for method in ("highs-ds", "highs-ipm"):  # either may give up on what the other solves
            result = linprog(c / UNIT, A_ub=a, b_ub=b, A_eq=e, b_eq=[x for _, x in self.equal], method=method)
            if result.status in (0, 2):
                break
        if result.status != 0:
            raise ValueError(f"no schedule fits these budgets: {result.message}")
        return {part: max(0.0, float(sum(result.x[v] * amount for v, amount in table.items())))
                for part, table in self.parts.items()}


def matrix(rows, columns):
    entries = [(i, v, x) for i, terms in enumerate(rows) for v, x in terms]
    i, j, x = zip(*entries)
    return coo_matrix((x, (i, j)), shape=(len(rows), columns)).tocsr()


class Interval:
    """Between two uses: shares of the bytes that stay on the device (d), are kept in host memory (h), are read
    from the drive (r) or copied out of the device (o); of h, what is there to the end of it (q)."""

    def __init__(self, p, before, after, period):
        self.before, self.after = before, after
        self.span = (before.end, after.start if after.start > before.end else after.start + period)
        self.live = after.reads and not before.drops
        self.settled = False  # h lies in host memory all the time: it can't come back from the device
        self.d, self.h, self.r, self.o, self.q = (p.var() for _ in range(5))

    def covers(self, t, period):
        return self.live and any(self.span[0] < x < self.span[1] for x in (t, t + period))


def add_flows(p, all_, v, share):
    """What a byte that is used needs. share: of the bytes that are this variant's."""
    for n, i in enumerate(all_):
        if not i.live:
            continue
        last, size = all_[n - 1], v.size
        p.at_most([(i.d, 1), (share, -1)])
        p.at_most([(i.h, 1), (share, -1)])
        p.at_most([(i.q, 1), (i.h, -1)])
        if i.before.host:
            p.at_most([(i.d, 1)])  # the device's copy is the old one
        elif i.before.writes:
            p.at_most([(i.h, 1), (i.o, -1)])  # on the device alone
        else:
            p.at_most([(i.h, 1), (last.q, -1), (last.r, -1), (i.o, -1)])
        p.at_most([(share, 1), (i.h, -1), (i.r, -1)] + ([] if i.after.host else [(i.d, -1)]))
        if not i.after.host:
            p.pays("in", share, size)
            p.pays("in", i.d, -size)
        p.pays("out", i.o, size)
        p.pays("read", i.r, size)


def add_epochs(p, all_, v, share):
    """From one change of the bytes to the next: they go out of the device once, and to the drive once."""
    starts = [n for n, i in enumerate(all_) if i.before.writes]
    if not starts:  # never changed: lies on the drive, and is not copied out
        for i in all_:
            p.at_most([(i.o, 1)])
        return
    for s, e in zip(starts, starts[1:] + [starts[0] + len(all_)]):
        epoch = [all_[n % len(all_)] for n in range(s, e)]
        for i in epoch:
            i.settled = i.after.host and epoch[0].before.host
        written, out = p.var(), []
        for i in epoch:
            if not i.live:
                continue
            out.append((i.o, 1))
            p.at_most([(i.r, 1), (written, -1)])
            if epoch[0].before.host:
                p.at_most([(i.o, 1)])  # what the device did not change is not copied out of it
            else:
                p.at_most([(i.r, 1)] + [(o, -1) for o, _ in out])
                p.at_most([(share, 1)] + ([] if i.after.host else [(i.d, -1)]) + [(o, -1) for o, _ in out])
        if out:
            p.at_most(out + [(share, -1)])
        p.pays("write", written, v.size)


def add_room(p, table, step, device, host):
    """At each slot: what is leased lies on the device, what is kept lies somewhere. Whole shares only are bound to
    the device; h may move over to it early, or leave it late, and is bound to both together."""
    period = 2 * len(step["slots"])
    device, held = device // ALIGN * ALIGN, step["device_held"]
    leased = [0] * len(step["slots"])
    for t, slot in enumerate(step["slots"]):
        for name, _, *last in slot["leases"]:
            for k in range(t, (last[0] if last else t) + 1):
                leased[k] += footprint(step["tensors"][name]["bytes"])
    for t, least in enumerate(leased):
        on_device, both, on_host = [], [], []
        for v, all_ in table:
            for i in all_:
                if i.covers(2 * t, period):
                    on_device.append((i.d, v.size))
                    both += [(i.d, v.size), (i.h, v.size)]
                    on_host.append((i.h if i.settled else i.q, v.size))
                elif i.live and not i.before.host and not i.before.writes and i.before.start <= 2 * t <= i.before.end:
                    copy = p.var()  # was in host memory all along, or could not be there after
                    p.at_most([(i.h, 1), (i.o, -1), (copy, -1)])
                    both.append((copy, v.size))
                    on_host.append((copy, v.size))
        if least + held > device:
            raise ValueError(f"slot {t} leases {least} bytes beside {held}: more than the device's {device}")
        for terms, room in ((on_device, device - held - least), (both, device + host - held - least), (on_host, host)):
            p.at_most([(v, size / UNIT) for v, size in terms], room / UNIT)


def least(step, device, host):
    """Bytes of a step, {"in", "out", "read", "write"}: under "drive" of the schedule with the fewest over the drive,
    and among those over the link; under "link" the other way round."""
    p, table, choices, period = Program(), [], {}, 2 * len(step["slots"])
    one = p.var()
    p.equal.append(([(one, 1)], 1.0))
    for v in variants(step):
        share = one
        if v.choice:
            if v.choice not in choices:
                choices[v.choice] = p.var()
            share = choices[v.choice]
        all_ = [Interval(p, a, b, period) for a, b in zip(v.uses, v.uses[1:] + v.uses[:1])]
        add_flows(p, all_, v, share)
        add_epochs(p, all_, v, share)
        table.append((v, all_))
    for choice, _ in choices:
        p.equal.append(([(choices[choice, side], 1) for side in (0, 1) if (choice, side) in choices], 1.0))
    add_room(p, table, step, device, host)
    return {goal: p.solve(goal) for goal in ("drive", "link")}


# ---- the program ------------------------------------------------------------------------------------


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("events", nargs="?", help="a file of step_events.py; standard input by default")
    p.add_argument("--device-mem", type=int, required=True, help="bytes")
    p.add_argument("--host-mem", type=int, required=True, help="bytes")
    a = p.parse_args()
    with open(a.events, encoding="utf-8") if a.events else sys.stdin as f:
        step = json.load(f)
    try:
        print(json.dumps(least(step, a.device_mem, a.host_mem), indent=1))
    except ValueError as e:
        print(f"least: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
