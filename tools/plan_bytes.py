#!/usr/bin/python3
"""Bytes moved by steady steps, beside the least possible (tools/least.py), over budgets.

Runs ofl-generate (two tiers: weights read in place), ofl-bench decode (three tiers) and ofl-finetune under the
budgets of a table and under random ones. The mean of all steps from the third on counts. Prints a line a pair;
exit status 1 if one is above the limit, on either link, or below the least possible, which is then wrong.
Needs python3-scipy.

    tools/plan_bytes.py build                 # 43 pairs, models of 153 and 193 MB, training of 9 and 20 M
    tools/plan_bytes.py build --full          # the table on a model of 1.28 GB and on the 1b preset, too
    tools/plan_bytes.py build --only train --pairs 4 --seed 7
"""
import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from types import SimpleNamespace

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import least  # noqa: E402
import step_events  # noqa: E402

MIB = 1 << 20
FIRST = 2  # steps that don't count
SIDES = {"link_in": ("in",), "link_out": ("out",), "drives": ("read", "write")}  # of a report's bound; of least.py
SHAPES = {  # of tools/make_model.py
    "9M": ["--layers", "12", "--hidden", "256", "--heads", "8", "--kv-heads", "4", "--ffn", "704", "--vocab", "512"],
    "153M": ["--layers", "24", "--hidden", "512", "--heads", "8", "--kv-heads", "4", "--ffn", "1536", "--vocab", "2048"],
    "193M": ["--layers", "10", "--hidden", "1024", "--heads", "16", "--kv-heads", "8", "--ffn", "2048", "--vocab", "2048"],
    "1.28G": []}
TABLE = [(300, 310), (200, 410), (110, 500), (450, 160), (600, 64)]  # MiB, of the model of 1.28 GB
TABLE_OF = 1279381504 / MIB


class Bench:
    def __init__(self, a, work):
        self.a, self.work, self.bad, self.lines = a, work, 0, []
        self.tools = os.path.dirname(os.path.abspath(__file__))
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}

    def path(self, name):
        return os.path.join(self.work, name)

    def run(self, *command):
        """The report that the program writes."""
        report = self.path("report.json")
        done = subprocess.run([os.path.join(self.a.build, command[0]), *command[1:], "--device", "host", "--report", report],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=self.env, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}")
        with open(report, encoding="utf-8") as f:
            return json.load(f)

    def model(self, name):
        directory = self.path(name)
        if not os.path.isdir(directory):
            subprocess.run([os.path.join(self.tools, "make_model.py"), directory, *SHAPES[name]], check=True,
                           stderr=subprocess.DEVNULL)
        return directory

    def config(self, directory):
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
            return json.load(f)

    def preset(self, name):
        path = self.path(name + ".json")
        if not os.path.exists(path):
            subprocess.run([os.path.join(self.a.build, "ofl-bench"), "step", "--preset", name, "--save-config", path],
                           check=True)
        with open(path, encoding="utf-8") as f:
            return json.load(f)

    def wrong(self, text):
        print("    WRONG: " + text)
        self.bad += 1

    # ---- one pair of budgets ------------------------------------------------------------------------

    def judge(self, what, device, host, step, report):
        all_bytes = sum(t["bytes"] for t in step["tensors"].values())
        bound = least.least(step, device, host)
        moved = {side: report["bound"][side]["moved_bytes"] for side in SIDES}  # means from the third step on
        fewest = {side: sum(bound["drive"][part] for part in parts) for side, parts in SIDES.items()}
        floor, ratios = 0.01 * all_bytes, {}  # less than that is as good as nothing
        if report["bound"]["steps"] != self.a.steps:
            self.wrong(f"{what}: {report['bound']['steps']} steps count, not {self.a.steps}")
        for goal, sides in (("link", ("link_in", "link_out")), ("drive", ("drives",))):
            # The drive comes first: the link's least is that of a schedule with the drive's least.
            total = sum(moved[side] for side in sides)
            ratios[goal] = max(total, floor) / max(sum(fewest[side] for side in sides), floor)
            # Steps may end early or late with what they move ahead: a little less is no contradiction.
            if max(total, floor) < 0.9 * sum(bound[goal][p] for side in sides for p in SIDES[side]):
                self.wrong(f"{what}: less was moved over the {goal} than is possible")
        worst = max(ratios.values())
        print(f"{what:34} {device / MIB:7.1f} {host / MIB:7.1f}  " + "  ".join(
            f"{fewest[side] / MIB:7.1f} {moved[side] / MIB:7.1f}" for side in SIDES) +
            f"  {ratios['link']:5.2f} {ratios['drive']:5.2f}{'' if worst <= self.a.limit else '  above'}", flush=True)
        self.lines.append({"what": what, "device": device, "host": host, "least": bound, "moved": moved, "ratio": ratios})
        if worst > self.a.limit:
            self.bad += 1

    def header(self):
        print("MiB a step: least possible, moved; ratio of the link (in + out) and of the drive (reads + writes)")
        print(f"{'':34} {'device':>7} {'host':>7}  " + "  ".join(f"{side:>15}" for side in SIDES) +
              "   link drive", flush=True)

    def check_counts(self, what, said, known):
        if said != known:
            self.wrong(f"{what}: the program had {said}, the events have {known}")

    # ---- decode -------------------------------------------------------------------------------------

    def decode_step(self, config, report, source):
        model = report["model"] if source else report
        prompt = min(report["prompt_tokens"] if source else report["settings"]["prompt"], 64)
        held = model["workspace_bytes"] + prompt * config["hidden_size"] * 4
        return step_events.decode(config, 2, held, model["cache_bytes"], source)

    def generate(self, name, budgets):
        directory = self.model(name)
        config = self.config(directory)
        command = ["ofl-generate", "--model", directory, "--prompt", "a", "--temperature", "0", "--max-tokens"]
        report = self.run(*command, "2", "--in-memory")
        step = self.decode_step(config, report, True)
        self.check_counts(name, [report["hits"] + report["misses"], report["model"]["weight_bytes"]],
                          [2 * step_events.acquires(step)[0], sum(t["bytes"] for t in step["tensors"].values())])
        for device, host in budgets(step):
            report = self.run(*command, str(FIRST + self.a.steps + 1), "--device-mem", str(device), "--host-mem", str(host))
            self.judge("generate " + name, device, host, self.decode_step(config, report, True), report)

    def bench_decode(self, name, config, model, budgets):
        command = ["ofl-bench", "decode", *model, "--prompt", "2", "--warmup", str(FIRST), "--tokens", str(self.a.steps)]
        step = step_events.decode(config, 2, 0, 0, False)
        for device, host, store in budgets(step):
            report = self.run(*command, "--device-mem", str(device), "--host-mem", str(host),
                              "--nvme", f"{self.work}:{store}")
            self.judge(f"decode {name}, store {store // MIB}", device, host, self.decode_step(config, report, False),
                       report)

    # ---- training -----------------------------------------------------------------------------------

    def train(self, name, dtype, accum, clip, count, rng):
        batch, seq = 2, 32
        if name in SHAPES:
            what = ["--model", self.model(name)]
            config = self.config(what[1])
        else:
            what, config = ["--preset", name], self.preset(name)
        command = ["ofl-finetune", *what, "--data", self.path("text"), "--dtype", dtype, "--seq", str(seq),
                   "--batch", str(batch), "--accum", str(accum), "--clip", str(int(clip)), "--steps"]
        report, more = (self.run(*command, steps, "--in-memory") for steps in "12")
        a = SimpleNamespace(dtype=dtype, workspace=report["model"]["workspace_bytes"], batch=batch, seq=seq, accum=accum,
                            clip=clip)
        step = step_events.train(config, a)
        leases, updates = step_events.acquires(step)
        state = report["model"]["state_bytes"]
        # The second step's: loading a model leases, too.
        self.check_counts(f"{name} {dtype} accum {accum}",
                          [more["hits"] + more["misses"] - report["hits"] - report["misses"],
                           more["updates"] - report["updates"], state + report["model"]["activation_bytes"]],
                          [leases + updates * (4 if dtype == "f32" else 5), updates,
                           sum(t["bytes"] for t in step["tensors"].values())])
        what = f"train {name} {dtype} x{accum}{' clip' if clip else ''}"
        for device, host in random_budgets(step, count, rng, state, 0.35):
            report = self.run(*command, str(FIRST + self.a.steps), "--device-mem", str(device), "--host-mem", str(host),
                              "--nvme", self.work)
            self.judge(what, device, host, step, report)


def needed(step):
    """Device memory that the largest part takes."""
    most = [0] * len(step["slots"])
    for t, slot in enumerate(step["slots"]):
        for name, _, *last in slot["leases"]:
            for k in range(t, (last[0] if last else t) + 1):
                most[k] += least.footprint(step["tensors"][name]["bytes"])
    return max(most) + step["device_held"]


def random_budgets(step, count, rng, total, most):
    low = int(needed(step) * 1.05) + MIB
    for _ in range(count):
        yield low + int(rng.random() * most * total) // 4096 * 4096, 4 * MIB + int(rng.random() * most * total) // 4096 * 4096


def store_budgets(step, count, rng):
    total = sum(t["bytes"] for t in step["tensors"].values())
    low = int(needed(step) * 1.05) + 4 * MIB
    for n in range(count):
        device, host = low + int(rng.random() * 0.5 * total), 4 * MIB + int(rng.random() * 0.4 * total)
        store = total + MIB
        if n % 2:  # no more than what the others can't hold, and room for what moves
            store = max(total - (device - low) - host // 2 + 4 * MIB, 8 * MIB)
        yield device // 4096 * 4096, host // 4096 * 4096, store // 4096 * 4096


def scaled(step):
    total = sum(t["bytes"] for t in step["tensors"].values()) / MIB
    low = int(needed(step) * 1.02) + MIB
    for pair in TABLE:
        device, host = (int(x * total / TABLE_OF * MIB) for x in pair)
        more = max(low - device, 0)  # a layer of the small model is a larger part of it
        yield (device + more) // 4096 * 4096, (host - more) // 4096 * 4096


def run_all(b, a, rng):
    b.header()
    if a.only in (None, "generate"):
        b.generate("193M", scaled)
        for name in ("153M", "193M"):
            b.generate(name, lambda step: random_budgets(step, a.pairs, rng, sum(
                t["bytes"] for t in step["tensors"].values()), 0.45))
        if a.full:
            b.generate("1.28G", lambda step: [(d * MIB, h * MIB) for d, h in TABLE])
    if a.only in (None, "decode"):
        directory = b.model("153M")
        b.bench_decode("153M", b.config(directory), ["--model", directory], lambda step: store_budgets(step, a.pairs, rng))
        if a.full:
            b.bench_decode("1b", b.preset("1b"), ["--preset", "1b"], lambda step: [(300 * MIB, 1100 * MIB, 900 * MIB)])
    if a.only in (None, "train"):
        with open(b.path("text"), "w", encoding="utf-8") as f:
            f.write("All that is gold does not glitter, not all those who wander are lost. " * 2000)
        for name, dtype, accum, clip in (("9M", "f32", 1, False), ("9M", "bf16", 2, True), ("20m", "f32", 1, True),
                                         ("20m", "bf16", 1, False), ("20m", "bf16", 2, True)):
            b.train(name, dtype, accum, clip, a.pairs - a.pairs // 3, rng)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("build", help="build directory")
    p.add_argument("--dir", help="where models and stores lie; a temporary folder of its own by default")
    p.add_argument("--full", action="store_true")
    p.add_argument("--only", choices=("generate", "decode", "train"))
    p.add_argument("--pairs", type=int, default=6, help="random pairs of budgets for each model (default 6)")
    p.add_argument("--steps", type=int, default=6, help="steps that count (default 6)")
    p.add_argument("--seed", type=int, default=1, help="of the budgets (default 1)")
    p.add_argument("--limit", type=float, default=1.05, help="of the ratios (default 1.05)")
    p.add_argument("--json", help="write the table there, too")
    a = p.parse_args()
    work = tempfile.mkdtemp(prefix="plan-bytes-", dir=a.dir)
    bench = Bench(a, work)
    try:
        run_all(bench, a, random.Random(a.seed))
    except (RuntimeError, ValueError) as e:
        print(f"plan_bytes: {e}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(bench.lines, f, indent=1)
    above = sum(max(x["ratio"].values()) > a.limit for x in bench.lines)
    print(f"{len(bench.lines)} pairs, {above} above {a.limit} times the least possible")
    return 1 if bench.bad else 0


if __name__ == "__main__":
    sys.exit(main())
