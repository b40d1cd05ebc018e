"""Two processes, or more, each with its share of the batch; gradients are reduced as the optimizer takes them.

    torchrun --nproc-per-node 2 parallel.py MODEL-DIR OUT-DIR STEPS SCRATCH
"""
import sys

import offload
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

directory, out, steps, scratch = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
ctx = offload.open(device="16MiB", host="8MiB", nvme=scratch)
model = offload.load(AutoModelForCausalLM, directory, ctx)
opt = offload.AdamW(model, lr=1e-3, clip=1.0, reduce=dist.all_reduce)
text = torch.arange(65536) * 2654435761 % model.config.vocab_size
shares = 2  # of a batch: with one process it does both
for step in range(steps):
    for share in range(rank, shares, size):
        ids = text[(step * shares + share) * 64:][:128].view(2, 64)
        loss = model(input_ids=ids, labels=ids).loss
        (loss / shares).backward()
    opt.step()
    opt.zero_grad()
    print(f"process {rank} step {step + 1} norm {opt.norm():.9g}", flush=True)
if rank == 0:
    offload.save(model, out)
dist.destroy_process_group()
