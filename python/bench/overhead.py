#!/usr/bin/env python3
"""What offload costs a training step: a Llama of about 100M parameters in plain PyTorch, with everything resident, and in
budgets of a quarter of its state, with updates behind backward and under it; in turns, medians of a step and of the ratios of pairs, with their range.

    python bench/overhead.py [--pairs N] [--dir DIR] [--seq N] [--batch N]

Peak memory of each run beside it: of a process of its own. Needs torch and transformers, and a quiet machine.
"""
import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time

WAYS = ("plain", "resident", "quarter", "under")


def run(way, args):
    import torch
    import transformers

    base = None
    config = transformers.LlamaConfig(vocab_size=8192, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
                                      num_key_value_heads=12, intermediate_size=2048, max_position_embeddings=1024)
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.train()
    count = sum(p.numel() for p in model.parameters())
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    if way == "plain":
        opt = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    else:
        import offload

        state = 16 * count
        ctx = offload.open(device=17 * count if way == "resident" else state // 8,
                           host=0 if way == "resident" else state // 8,
                           nvme=None if way == "resident" else args.dir, expected=state)
        opt = offload.AdamW(offload.attach(model, ctx), lr=1e-4, in_backward=way == "under")
    times, losses = [], []
    g = torch.Generator().manual_seed(7)
    for _ in range(args.steps):
        ids = torch.randint(0, 8192, (args.batch, args.seq), generator=g)
        begin = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
        times.append(time.perf_counter() - begin)
    out = {"step": statistics.median(times[2:]), "parameters": count, "base": base, "loss": losses[-1],
           "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10}
    if way != "plain":
        out["stats"] = ctx.stats()
        out["stalls"] = ctx.stalls()[:3]
    print(json.dumps(out))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pairs", type=int, default=3)
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--seq", type=int, default=256)
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--dir", default=tempfile.gettempdir())
    p.add_argument("--way", choices=WAYS)
    args = p.parse_args()
    if args.way:
        run(args.way, args)
        return
    seen = {w: [] for w in WAYS}
    for n in range(args.pairs):
        for way in WAYS if n % 2 == 0 else reversed(WAYS):
            said = subprocess.run([sys.executable, __file__, "--way", way, "--steps", str(args.steps), "--seq",
                                   str(args.seq), "--batch", str(args.batch), "--dir", args.dir], check=True,
                                  stdout=subprocess.PIPE, text=True).stdout
            seen[way].append(json.loads(said.splitlines()[-1]))
    for way in WAYS:
        ratios = sorted(a["step"] / b["step"] for a, b in zip(seen[way], seen["plain"]))
        s = seen[way][-1]
        print(f"{way:9} {statistics.median(r['step'] for r in seen[way]):7.3f} s a step, {statistics.median(ratios):.3f} of "
              f"plain ({ratios[0]:.3f} to {ratios[-1]:.3f}), peak {s['peak'] / 2**20:.0f} MiB, loss {s['loss']:.6f}")
        if "stats" in s:
            st = s["stats"]
            print(f"          stall {st['stall_ns'] / 1e9:.2f} s, in {st['device_in_bytes'] / 2**20:.0f}, out "
                  f"{st['device_out_bytes'] / 2**20:.0f}, read {st['nvme_read_bytes'] / 2**20:.0f}, written "
                  f"{st['nvme_write_bytes'] / 2**20:.0f} MiB; {s['stalls']}")


if __name__ == "__main__":
    main()
