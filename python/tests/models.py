"""Small random models, and runs of them with and without offload."""
import torch
import transformers
from transformers import AutoModelForCausalLM

import offload

VOCAB, SEQ = 128, 16


def config(name):
    common = {"vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
              "num_key_value_heads": 2, "intermediate_size": 128, "max_position_embeddings": 64}
    if name == "llama":
        return transformers.LlamaConfig(**common)
    if name == "qwen3":
        return transformers.Qwen3Config(**common, head_dim=16, tie_word_embeddings=True)
    if name == "gemma3":
        return transformers.Gemma3TextConfig(**common, head_dim=16, sliding_window=8)
    if name == "olmoe":
        return transformers.OlmoeConfig(**common, num_experts=4, num_experts_per_tok=2)
    return transformers.GPT2Config(vocab_size=VOCAB, n_embd=64, n_layer=4, n_head=4, n_positions=64, resid_pdrop=0.0,
                                   embd_pdrop=0.0, attn_pdrop=0.0)


NAMES = ("llama", "qwen3", "gemma3", "olmoe", "gpt2")


def model_of(name, dtype=torch.float32):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config(name), attn_implementation="eager").to(dtype)
    model.train()
    return model


def batches(count, batch=2):
    g = torch.Generator().manual_seed(7)
    return [torch.randint(0, VOCAB, (batch, SEQ), generator=g) for _ in range(count)]


def state_bytes(model):
    """Weights, gradients, moments, and masters."""
    return sum(p.numel() * (16 if p.dtype == torch.float32 else 18) for p in model.parameters())


def train(model, opt, steps, accum=1, after=None):
    """Losses of every micro-batch."""
    losses, data = [], iter(batches(steps * accum))
    for step in range(steps):
        for _ in range(accum):
            ids = next(data)
            loss = model(input_ids=ids, labels=ids).loss
            (loss / accum).backward()
            losses.append(loss.item())
        opt.step()
        opt.zero_grad()
        if after:
            after(step)
    return losses


def weights(model):
    """Copies, of an offloaded model or of any."""
    if not hasattr(model, "offload_manager"):
        return {n: p.detach().clone() for n, p in model.named_parameters()}
    return {n: p.offload_held.read() for n, p in model.named_parameters()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def tight(model, tmp_path, share=4):
    """A context whose device and host memory together are that share of the model's state, or as little more as its largest
    block needs; the rest on a drive."""
    blocks = getattr(getattr(model, "model", None), "layers", None) or model.transformer.h
    block = max(sum(p.numel() * p.element_size() + 4096 for p in b.parameters()) for b in blocks)
    largest = max(p.numel() * 4 for p in model.parameters())
    host = 2 << 20
    return offload.open(device=max(block + 2 * largest, state_bytes(model) // share - host), host=host, nvme=str(tmp_path))
