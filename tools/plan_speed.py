#!/usr/bin/env python3
"""Two builds in turns, where the planner decides: what the first one does in the time of the other. Medians of the
pairs' ratios with their range; over 1: the first one is faster. (tools/versus.sh: the drive itself.)

    tools/plan_speed.py BUILD OTHER [--only decode|bench|train] [--pairs N] [--dir DIR] [--full]

decode: a model of 1.28 GB at 300 + 310 MiB, read from a drive that a blkio cgroup holds to 400 MB/s (root).
bench:  the 1b preset over 300 / 1100 / 900 MiB.
train:  the 20m preset (--full: 300m, too) in a quarter of its state, each beside the same in memory, and beside the
        larger of the in-memory step and the step's traffic at the drive's mixed rate, measured in the same turn.

Needs python3 alone. --full takes an hour or so; the rest some ten minutes.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

MIB = 1 << 20
TOOLS = os.path.dirname(os.path.abspath(__file__))
FIRST = 2  # steps that don't count


class Runner:
    def __init__(self, work):
        self.work, self.cgroup = work, None
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}

    def throttle(self, bytes_per_s):
        """From now on the programs read no faster from the drive that the folder lies on."""
        source = subprocess.run(["findmnt", "-n", "-o", "SOURCE", "-T", self.work], check=True, capture_output=True,
                                text=True).stdout.strip()
        sys_dir = os.path.realpath(os.path.join("/sys/class/block", os.path.basename(source)))
        if os.path.exists(os.path.join(sys_dir, "partition")):
            sys_dir = os.path.dirname(sys_dir)  # limits are of whole drives
        with open(os.path.join(sys_dir, "dev"), encoding="ascii") as f:
            device = f.read().strip()
        self.cgroup = f"/sys/fs/cgroup/blkio/ofl-plan-{os.getpid()}"
        os.mkdir(self.cgroup)
        with open(os.path.join(self.cgroup, "blkio.throttle.read_bps_device"), "w", encoding="ascii") as f:
            f.write(f"{device} {bytes_per_s}")

    def unthrottle(self):
        if self.cgroup:
            os.rmdir(self.cgroup)
        self.cgroup = None

    def enter(self):
        if self.cgroup:
            with open(os.path.join(self.cgroup, "cgroup.procs"), "w", encoding="ascii") as f:
                f.write("0")

    def run(self, build, program, *arguments, option="--report"):
        report = os.path.join(self.work, "report.json")
        done = subprocess.run([os.path.join(build, program), *arguments, option, report], stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, env=self.env, preexec_fn=self.enter, check=False)
        if done.returncode:
            raise RuntimeError(f"{build}/{program} {' '.join(arguments)}: exit status {done.returncode}\n{done.stderr}")
        with open(report, encoding="utf-8") as f:
            return json.load(f)


def in_turns(pairs, a, b, measure):
    """Figures of both builds, measured one after the other, each first every second time."""
    figures = {0: [], 1: []}
    for n in range(pairs):
        for side in ((0, 1), (1, 0))[n % 2]:
            figures[side].append(measure((a, b)[side]))
    return figures[0], figures[1]


def say(what, text):
    print(f"{what:44} {text}", flush=True)


def spread(values, form="{:.3f}"):
    return f"{form} ({form} to {form}, {{}})".format(statistics.median(values), min(values), max(values), len(values))


def compare(what, x, y):
    say(what, f"{spread(x)} against {spread(y)} tokens/s")
    say("", "ratio " + spread([p / q for p, q in zip(x, y)], "{:.2f}"))


def decode(r, a):
    model = os.path.join(r.work, "model")
    subprocess.run([os.path.join(TOOLS, "make_model.py"), model], check=True, stderr=subprocess.DEVNULL)
    os.sync()
    r.throttle(400_000_000)
    try:
        x, y = in_turns(a.pairs, a.build, a.other, lambda build: r.run(
            build, "ofl-generate", "--device", "host", "--model", model, "--prompt", "a", "--temperature", "0",
            "--max-tokens", "9", "--device-mem", "300M", "--host-mem", "310M")["tokens_per_s"])
    finally:
        r.unthrottle()
    shutil.rmtree(model)
    compare("decode 300 + 310 MiB, drive at 400 MB/s", x, y)


def bench(r, a):
    shares = []

    def measure(build):
        report = r.run(build, "ofl-bench", "decode", "--device", "host", "--preset", "1b", "--device-mem", "300M",
                       "--host-mem", "1100M", "--nvme", f"{r.work}:900M", "--prompt", "8", "--tokens", "6")
        if build == a.build:
            shares.append(report["share_of_bound"])
        return report["tokens_per_s"]

    compare("decode 1b, 300 / 1100 / 900 MiB", *in_turns(a.pairs, a.build, a.other, measure))
    say("", "share of the bound that the program prints " + spread(shares, "{:.2f}"))


def step_s(report):
    return statistics.median(report["step_s"][FIRST:])


def traffic(report, steps):
    """Bytes of a step through the drive; of a build that does not tell those of the steps that count, of all."""
    if "bound" in report:
        return report["bound"]["drives"]["moved_bytes"]
    return (report["moved"]["nvme_read"] + report["moved"]["nvme_write"]) / steps


def train(r, a, preset, accum, steps):
    command = ["ofl-finetune", "--device", "host", "--preset", preset, "--data", os.path.join(r.work, "text"), "--seq",
               "128", "--batch", "4", "--accum", str(accum), "--clip", "1", "--lr", "1e-3", "--steps", str(steps)]
    state = r.run(a.build, *command[:-1], "1", "--in-memory")["model"]["state_bytes"]
    device = int(state / 4 * 0.6) // MIB
    tiers = ["--device-mem", f"{device}M", "--host-mem", f"{state // 4 // MIB - device}M", "--nvme", r.work]

    def measure(build):
        mixed = r.run(build, "ofl-bench", "nvme", "--dir", r.work, "--rw", "mixed", "--size", "512M", "--repeat", "1",
                      "--time-s", "2", option="--json")["results"][0]["gb_per_s"]["median"] * 1e9
        memory, placed = r.run(build, *command, "--in-memory"), r.run(build, *command, *tiers)
        moved = traffic(placed, steps)
        return {"step": step_s(placed), "memory": step_s(memory) / step_s(placed),
                "bound": step_s(placed) / max(step_s(memory), moved / mixed), "stall": placed["stall_s"] / sum(placed["step_s"])}

    sides = in_turns(a.pairs, a.build, a.other, measure)
    what = f"train {preset} x{accum}, {tiers[1]} + {tiers[3]} of {state // MIB} MiB"
    for build, side in zip((a.build, a.other), sides):
        say(f"{what}: {build}", "of in-memory speed " + spread([f["memory"] for f in side], "{:.2f}") +
            "; step over the larger of memory and traffic " + spread([f["bound"] for f in side], "{:.2f}") +
            "; stall " + spread([f["stall"] for f in side], "{:.2f}"))
    say("", "ratio of steps " + spread([y["step"] / x["step"] for x, y in zip(*sides)], "{:.2f}"))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("build")
    p.add_argument("other")
    p.add_argument("--only", choices=("decode", "bench", "train"))
    p.add_argument("--pairs", type=int, default=3)
    p.add_argument("--dir", help="a directory on the drive; 2 GB are used there")
    p.add_argument("--full", action="store_true", help="training of 300m, too, and with 16 micro-batches")
    a = p.parse_args()
    work = tempfile.mkdtemp(prefix="plan-speed-", dir=a.dir)
    r = Runner(work)
    try:
        if a.only in (None, "decode"):
            decode(r, a)
        if a.only in (None, "bench"):
            bench(r, a)
        if a.only in (None, "train"):
            with open(os.path.join(work, "text"), "w", encoding="utf-8") as f:
                f.write("All that is gold does not glitter, not all those who wander are lost. " * 8000)
            for preset, accum, steps in [("20m", 1, 7)] + ([("20m", 16, 6), ("300m", 1, 5), ("300m", 16, 5)] if a.full else []):
                train(r, a, preset, accum, steps)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as e:
        print(f"plan_speed: {e}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
