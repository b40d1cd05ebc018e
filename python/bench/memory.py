#!/usr/bin/env python3
"""RAM of a training run beside its budgets: the peak of the process against budgets + interpreter + 300 MiB, over a model whose
state is many times the budgets; and growth over 500 steps of a smaller one. Exit status 1 if a bound does not hold.

    python bench/memory.py [--dir DIR] [--only large|small|long] [--json FILE]

The interpreter's own is the peak of a process that trains a model of next to no size in plain PyTorch: torch, transformers and
what they load when a model is made and run; what is there after the imports alone is printed, too. Each run is a process of its
own; the figures do not depend on other load. Needs torch and transformers. Takes minutes: the second is 500 steps.

    PYTHONPATH=build/python python python/bench/memory.py
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

MIB = 1 << 20
RUNS = {
    # hidden, layers, vocabulary, steps, device and host budget in MiB
    "large": (768, 12, 8192, 12, 96, 64),
    "small": (512, 12, 4096, 4, 24, 16),
    "long": (256, 8, 2048, 500, 8, 8),
}


def status(field):
    with open("/proc/self/status", encoding="ascii") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith(field + ":"))


def make(directory, hidden, layers, vocab):
    """A checkpoint, by a process that is not measured."""
    import torch
    import transformers

    torch.manual_seed(1)
    config = transformers.LlamaConfig(vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers,
                                      num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64,
                                      intermediate_size=hidden * 8 // 3 // 64 * 64, max_position_embeddings=512)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)


def interpreter():
    """What is there without offload, and without a model to speak of."""
    import torch
    import transformers

    imported = status("VmHWM")
    model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, intermediate_size=64))
    opt = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        ids = torch.randint(0, 64, (2, 64))
        model(input_ids=ids, labels=ids).loss.backward()
        opt.step()
        opt.zero_grad()
    print(json.dumps({"imported": imported, "own": status("VmHWM")}))


def run(name, directory, scratch):
    hidden, layers, vocab, steps, device, host = RUNS[name]
    import torch
    from transformers import AutoModelForCausalLM

    import offload

    with offload.open(device=device * MIB, host=host * MIB, nvme=scratch) as ctx:
        model = offload.load(AutoModelForCausalLM, directory, ctx, dtype=torch.float32)
        opt = offload.AdamW(model, lr=1e-4, clip=1.0)
        g = torch.Generator().manual_seed(7)
        seen = []
        for _ in range(steps):
            ids = torch.randint(0, vocab, (2, 64), generator=g)
            model(input_ids=ids, labels=ids).loss.backward()
            opt.step()
            opt.zero_grad()
            opt.progress()
            seen.append(status("VmRSS"))
        stats = ctx.stats()
        parameters = sum(p.numel() for p in model.parameters())
    print(json.dumps({"parameters": parameters, "state": 16 * parameters, "budgets": (device + host) * MIB, "peak": status("VmHWM"), "steps": steps,
                      "growth": max(seen[-20:]) - max(seen[-len(seen) * 4 // 5:][:20]),
                      "written": stats["nvme_write_bytes"]}))


def measure(name, scratch):
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        again = [sys.executable, os.path.abspath(__file__), "--dir", directory, "--only", name]
        subprocess.run([*again, "--part", "make"], check=True, stderr=subprocess.DEVNULL)
        found = {}
        for part in ("own", "run"):
            out = subprocess.run([*again, "--part", part], check=True, stdout=subprocess.PIPE, text=True).stdout
            found.update(json.loads(out.splitlines()[-1]))
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dir", default=".", help="a directory on a drive (default: this one)")
    p.add_argument("--only", choices=RUNS)
    p.add_argument("--json", metavar="FILE", help="write the figures there, too")
    p.add_argument("--part", choices=("make", "own", "run"), help=argparse.SUPPRESS)
    args = p.parse_args()
    model = os.path.join(args.dir, "model")
    if args.part == "make":
        return make(model, *RUNS[args.only][:3])
    if args.part == "own":
        return interpreter()
    if args.part == "run":
        return run(args.only, model, args.dir)
    failed, found = False, {}
    for name in [args.only] if args.only else RUNS:
        r = found[name] = measure(name, args.dir)
        allowed = r["budgets"] + r["own"] + 300 * MIB
        r["allowed"], r["fits"], r["grows"] = allowed, r["peak"] <= allowed, r["steps"] > 100 and r["growth"] > 8 * MIB
        failed |= not r["fits"] or r["grows"]
        print(f"{name}: {r['parameters'] / 1e6:.1f} M parameters, state {r['state'] / MIB:.0f} MiB in budgets of "
              f"{r['budgets'] / MIB:.0f} MiB, {r['steps']} steps: peak {r['peak'] / MIB:.0f} MiB of {allowed / MIB:.0f} allowed "
              f"(interpreter {r['own'] / MIB:.0f}, {r['imported'] / MIB:.0f} of it by imports, + budgets + 300): {(r['peak'] - r['own'] - r['budgets']) / MIB:.0f} MiB beside "
              f"them; growth over the last four fifths {r['growth'] / MIB:.1f} MiB")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(found, f, indent=1)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
