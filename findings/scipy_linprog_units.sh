#!/bin/bash
# scipy 1.10.1 (Debian 12), linprog: a small feasible program (872 variables, 1,526 rows) whose numbers are bytes, 1e3
# to 1e8 beside bounds of 1, can end with status 4, "model_status is Unknown", and no solution; the other of the two
# HiGHS solvers solves it, and in MiB both do. A guess would be that the solver scales rows itself, or that what is not
# solved is infeasible (status 2) or takes too long (1). Of 40 such programs one fails with "highs", another one with
# "highs-ipm": both are here.
#
# Seen: scipy 1.10.1, each program by highs, highs-ipm: in bytes 4 0 and 0 4, in MiB 0 0 and 0 0. scipy 1.17.1: 0 each
# time. Exit 1 here if 1.10.1 behaves otherwise; 77 where it can't be had (needs Python 3.8 to 3.11).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if ! python3 -m venv env >/dev/null 2>&1 || ! env/bin/pip -q install scipy==1.10.1 numpy==1.24.4 >/dev/null 2>&1; then
    echo 'no scipy 1.10.1 to be had'
    exit 77
fi
cat >program.py <<'P'
import numpy as np
import scipy
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

LAYER = [1024] + [512 << 10, 256 << 10, 256 << 10, 512 << 10] + [1024] + [3 << 19] * 3
SIZES = LAYER * 24 + [1024, 2 << 20]
BUDGETS = [(18852072, 27218812), (78528264, 45246186)]  # bytes of a fast memory and of a slow one


def solve(fast, slow, unit, method):
    """Tensors are used one after the other, for ever. A share of each may stay in the fast memory, another be kept in
    the slow one; as little as can be of the rest is read."""
    n, rows, columns, values, bound = len(SIZES), [], [], [], []

    def at_most(terms, most):
        for variable, factor in terms:
            rows.append(len(bound))
            columns.append(variable)
            values.append(factor)
        bound.append(most)

    cost = np.zeros(4 * n)
    for i, size in enumerate(SIZES):
        stay, keep, read, here = range(4 * i, 4 * i + 4)
        at_most([(stay, 1)], 1)
        at_most([(keep, 1)], 1)
        at_most([(stay, -1), (keep, -1), (read, -1)], -1)
        at_most([(keep, 1), (here, -1)], 0)
        cost[read], cost[stay] = size / unit, -1e-6 * size / unit
    for t, size in enumerate(SIZES):
        stays = [(4 * i, SIZES[i] / unit) for i in range(n) if i != t]
        keeps = [(4 * i + 1, SIZES[i] / unit) for i in range(n) if i != t]
        at_most(stays, (fast - size) / unit)
        at_most(stays + keeps + [(4 * t + 3, size / unit)], (fast + slow - size) / unit)
        at_most([(4 * t + 3, size / unit)], slow / unit)
    rooms = coo_matrix((values, (rows, columns)), shape=(len(bound), 4 * n)).tocsr()
    return linprog(cost, A_ub=rooms, b_ub=np.array(bound), method=method)


seen = [[[solve(*pair, unit, method).status for method in ("highs", "highs-ipm")] for pair in BUDGETS]
        for unit in (1, 1 << 20)]
print(f"scipy {scipy.__version__}: status in bytes: {seen[0]}, in MiB: {seen[1]}")
raise SystemExit(seen != [[[4, 0], [0, 4]], [[0, 0], [0, 0]]])
P
env/bin/python program.py
