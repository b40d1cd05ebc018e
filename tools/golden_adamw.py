#!/usr/bin/env python3
"""Prints the table of tests/test_update.c: a few elements trained by torch.optim.AdamW; with --methods that of
tests/test_update_methods.c: by Adam, and by SGD with momentum.

    python3 tools/golden_adamw.py [--methods]

Needs torch. The arithmetic is torch's in f32, one tensor at a time (foreach=False). Weights
and gradients are multiples of powers of two, made by the same formulas in the test; what is
printed are the results after the last step, as hexadecimal floats, so that no digit is lost.
"""

import re
import sys

import torch

ELEMS, STEPS = 6, 7
CASES = [
    # lr, beta1, beta2, eps, weight decay
    (1e-3, 0.9, 0.999, 1e-8, 0.01),
    (0.05, 0.8, 0.95, 1e-6, 0.3),
    (2e-5, 0.9, 0.999, 1e-8, 0.0),
    (0.5, 0.0, 0.5, 1e-3, 0.1),
]


def weight(i):
    return ((37 * i + 11) % 64 - 32) / 16.0


def gradient(i, t):
    return ((29 * i + 17 * t + 5) % 128 - 64) / 64.0 * 2.0 ** (i - 4)


def row(values):
    return "{" + ", ".join(re.sub(r"\.?0*p", "p", float(v).hex()) + "f" for v in values) + "}"


def methods():
    cases = [("OFL_ADAM", 1e-3, 0.9, 0.999, 1e-8, 0.3), ("OFL_ADAM", 0.05, 0.8, 0.95, 1e-6, 0.01),
             ("OFL_SGD", 1e-2, 0.9, 0, 0, 0.1), ("OFL_SGD", 0.1, 0, 0, 0, 0)]
    for method, lr, beta1, beta2, eps, decay in cases:
        p = torch.tensor([weight(i) for i in range(ELEMS)], dtype=torch.float32, requires_grad=True)
        if method == "OFL_ADAM":
            o = torch.optim.Adam([p], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay, foreach=False)
        else:
            o = torch.optim.SGD([p], lr=lr, momentum=beta1, weight_decay=decay, foreach=False)
        for t in range(1, STEPS + 1):
            p.grad = torch.tensor([gradient(i, t) for i in range(ELEMS)], dtype=torch.float32)
            o.step()
        print(f"    {{{method}, {lr}, {beta1}, {beta2}, {eps}, {decay}, {row(p.detach())}}},")


def main():
    if "--methods" in sys.argv[1:]:
        methods()
        return
    print(f"/* tools/golden_adamw.py, torch {torch.__version__} */")
    for lr, beta1, beta2, eps, decay in CASES:
        p = torch.tensor([weight(i) for i in range(ELEMS)], dtype=torch.float32, requires_grad=True)
        o = torch.optim.AdamW([p], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay, foreach=False)
        for t in range(1, STEPS + 1):
            p.grad = torch.tensor([gradient(i, t) for i in range(ELEMS)], dtype=torch.float32)
            o.step()
        state = o.state[p]
        print(f"{{{lr}, {beta1}, {beta2}, {eps}, {decay},")
        for values in (p.detach(), state["exp_avg"], state["exp_avg_sq"]):
            print(f" {row(values)},")
        print("},")


if __name__ == "__main__":
    sys.exit(main())
