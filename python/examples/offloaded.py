import sys

import offload
import torch
from transformers import AutoModelForCausalLM

directory, out, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
ctx = offload.open(device="8MiB", host="4MiB", nvme=sys.argv[4])
model = offload.load(AutoModelForCausalLM, directory, ctx)
opt = offload.AdamW(model, lr=1e-4)
text = torch.arange(4096) * 2654435761 % model.config.vocab_size
for step in range(steps):
    ids = text[step * 32:step * 32 + 64].view(2, 32)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    opt.step()
    opt.zero_grad()
    print(f"step {step + 1} loss {loss.item():.5f}")
offload.save(model, out)
