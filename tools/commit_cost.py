#!/usr/bin/env python3
"""What commits cost: training that commits every step, and training that commits at its end alone, in turns. Medians of
the step's time and what each step wrote, with the pairs' ratios and their range; 1.02: commits cost 2 % of the time.

    tools/commit_cost.py BUILD [--pairs N] [--dir DIR] [--preset NAME] [--steps N]

Three budgets: everything rests above the store, which the drive sees for commits alone; half of what is kept does; a
quarter. Each in F32 and BF16, clipped and not. Needs python3 alone, and a quiet machine; some minutes.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile

from plan_speed import Runner

FIRST = 2  # steps that don't count


def train(runner, build, case, every, work, args):
    store = os.path.join(work, "store")
    shutil.rmtree(store, ignore_errors=True)
    report = runner.run(build, "ofl-finetune", "--device", "host", "--preset", args.preset, "--dtype", case["dtype"],
                        "--data", os.path.join(work, "text"), "--seq", "256", "--batch", "2", "--accum", str(args.accum), "--steps", str(args.steps),
                        "--clip", str(case["clip"]), "--device-mem", str(case["device"]), "--host-mem",
                        str(case["host"]), "--store", store, "--commit-every", str(every))
    steps = report["step_s"][FIRST:-1]  # the last one waits for its commit
    shutil.rmtree(store, ignore_errors=True)
    return {"step": statistics.median(steps), "mean": statistics.mean(steps), "store": report["store"],
            "written": report["moved"]["nvme_write"] / args.steps, "model": report["model"]}


def least(build, args, dtype, work):
    """The smallest device budget, and bytes of state."""
    command = [os.path.join(build, "ofl-finetune"), "--device", "host", "--preset", args.preset, "--dtype", dtype, "--data",
               os.path.join(work, "text"), "--seq", "256", "--batch", "2", "--steps", "1", "--nvme", work]
    said = subprocess.run([*command, "--device-mem", "4K"], capture_output=True, text=True, check=False).stderr
    device = int(said.split("smallest workable --device-mem is ")[1].split()[0])
    report = os.path.join(work, "least.json")
    subprocess.run([*command, "--device-mem", str(2 * device), "--host-mem", "64M", "--report", report], check=True,
                   capture_output=True)
    with open(report, encoding="utf-8") as f:
        return device, json.load(f)["model"]["state_bytes"]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("build")
    p.add_argument("--pairs", type=int, default=3)
    p.add_argument("--dir", default=".")
    p.add_argument("--preset", default="20m")
    p.add_argument("--steps", type=int, default=9)
    p.add_argument("--accum", type=int, default=1)
    p.add_argument("--dtype", default="f32,bf16")
    p.add_argument("--rests", default="all,half,a quarter")
    args = p.parse_args()
    work = tempfile.mkdtemp(prefix="commit-cost-", dir=args.dir)
    runner = Runner(work)
    try:
        with open(os.path.join(work, "text"), "w", encoding="ascii") as f:
            for i in range(20000):
                f.write(f"{i * 2654435761 % 1000003} ")
        print(f"{'dtype clip rests':24} {'every step':>10} {'at the end':>10}  {'ratio':22} {'written per step':>24} "
              f"{'commit':>9}")
        for dtype in args.dtype.split(","):
            device, state = least(args.build, args, dtype, work)
            for share, name in [x for x in ((2.0, "all"), (0.5, "half"), (0.25, "a quarter")) if x[1] in args.rests.split(",")]:
                for clip in (0, 1):
                    case = {"dtype": dtype, "clip": clip, "device": device + int(share * state / 4),
                            "host": max(64 << 20, int(share * state * 3 / 4))}
                    sides = {1: [], args.steps: []}
                    for n in range(args.pairs):
                        for every in ((1, args.steps), (args.steps, 1))[n % 2]:
                            sides[every].append(train(runner, args.build, case, every, work, args))
                    each, end = sides[1], sides[args.steps]
                    ratios = sorted(a["mean"] / b["mean"] for a, b in zip(each, end))
                    print(f"{dtype:4} {clip:4} {name:14} {statistics.median(a['mean'] for a in each):8.3f} s "
                          f"{statistics.median(b['mean'] for b in end):8.3f} s  "
                          f"{statistics.median(ratios):5.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}) "
                          f"{each[0]['written'] / 1e6:9.1f} and {end[0]['written'] / 1e6:.1f} MB "
                          f"{each[0]['store']['commit_s'] / each[0]['store']['commits']:7.3f} s", flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
