#!/usr/bin/env python3
"""The training step of a Llama in PyTorch, eager, for comparison with ofl-bench step on the same GPU.

    gpu_reference.py --config config.json --batch 4 --seq 2048 --json out.json

Random weights of the config's shape and random tokens; fused attention, activations of each layer
recomputed in backward, cross-entropy over all positions, fused AdamW. Two variants: f32 parameters under
bf16 autocast, and bf16 parameters throughout. Step times are medians after warm-up, between device
synchronisations. Model TFLOP/s are 6*P*K, and 8*P*K with recompute, of K tokens a step and P parameters that
are multiplied with each of them (embeddings are only looked up); attention is not counted. The GPU's bf16 matrix rate is measured before and after, with 8192^3 products, ten at a time.

Plain torch, nothing is downloaded. With --device cpu and a small config it only shows that it runs.
Exit status: 0 done, 1 no such device or nothing could be measured, 2 options that can't work.
"""
import argparse
import contextlib
import datetime
import json
import statistics
import sys
import time

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.checkpoint import checkpoint
except ImportError as error:
    sys.exit(f"gpu_reference: {error}: PyTorch is needed")


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype)


def rotate(x, cos, sin):
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = c["heads"], c["kv_heads"], c["head_dim"]
        self.input_norm = RMSNorm(c["hidden"], c["eps"])
        self.q = nn.Linear(c["hidden"], self.heads * self.head_dim, bias=False)
        self.k = nn.Linear(c["hidden"], self.kv_heads * self.head_dim, bias=False)
        self.v = nn.Linear(c["hidden"], self.kv_heads * self.head_dim, bias=False)
        self.o = nn.Linear(self.heads * self.head_dim, c["hidden"], bias=False)
        self.post_norm = RMSNorm(c["hidden"], c["eps"])
        self.gate = nn.Linear(c["hidden"], c["ffn"], bias=False)
        self.up = nn.Linear(c["hidden"], c["ffn"], bias=False)
        self.down = nn.Linear(c["ffn"], c["hidden"], bias=False)

    def attend(self, x, cos, sin):
        rows, length, _ = x.shape

        def split(y, heads):
            return y.view(rows, length, heads, self.head_dim).transpose(1, 2)

        q, k, v = split(self.q(x), self.heads), split(self.k(x), self.kv_heads), split(self.v(x), self.kv_heads)
        cos, sin = cos.to(q.dtype), sin.to(q.dtype)
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True,
                                           enable_gqa=self.heads != self.kv_heads)
        return self.o(y.transpose(1, 2).reshape(rows, length, -1))

    def forward(self, x, cos, sin):
        x = x + self.attend(self.input_norm(x), cos, sin)
        y = self.post_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.theta, self.head_dim = c["theta"], c["head_dim"]
        self.embed = nn.Embedding(c["vocab"], c["hidden"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["layers"]))
        self.norm = RMSNorm(c["hidden"], c["eps"])
        self.head = nn.Linear(c["hidden"], c["vocab"], bias=False)
        if c["tied"]:
            self.head.weight = self.embed.weight

    def forward(self, tokens, labels):
        length, device = tokens.shape[1], tokens.device
        inverse = self.theta ** -(torch.arange(0, self.head_dim, 2, device=device).float() / self.head_dim)
        angles = torch.outer(torch.arange(length, device=device).float(), inverse)
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos(), angles.sin()
        x = self.embed(tokens)
        for layer in self.layers:
            x = checkpoint(layer, x, cos, sin, use_reentrant=False)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.float().view(-1, logits.shape[-1]), labels.view(-1))


def read_config(path):
    with open(path, encoding="utf-8") as f:
        j = json.load(f)
    heads = j["num_attention_heads"]
    return {
        "hidden": j["hidden_size"], "layers": j["num_hidden_layers"], "heads": heads,
        "kv_heads": j.get("num_key_value_heads") or heads,
        "head_dim": j.get("head_dim") or j["hidden_size"] // heads, "ffn": j["intermediate_size"],
        "vocab": j["vocab_size"], "theta": float(j.get("rope_theta", 10000.0)),
        "eps": float(j.get("rms_norm_eps", 1e-5)), "tied": bool(j.get("tie_word_embeddings", False)),
    }


def count(c):
    """All parameters, and those that are multiplied with every token (a table of embeddings is not)."""
    attention = c["hidden"] * c["head_dim"] * (2 * c["heads"] + 2 * c["kv_heads"])
    layers = c["layers"] * (attention + 3 * c["hidden"] * c["ffn"] + 2 * c["hidden"])
    table = c["vocab"] * c["hidden"]
    multiplied = layers + table + c["hidden"]
    return multiplied + (0 if c["tied"] else table), multiplied


def spread(values):
    values = sorted(values)
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "q1": quartiles[0], "q3": quartiles[2], "min": values[0],
            "max": values[-1]}


def say(text):
    print(f"gpu_reference: {text}", file=sys.stderr, flush=True)


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device, run):
    synchronize(device)
    start = time.perf_counter()
    result = run()
    synchronize(device)
    return time.perf_counter() - start, result


def matrix_rate(device, size, runs):
    a = torch.randn(size, size, device=device).to(torch.bfloat16)
    b = torch.randn(size, size, device=device).to(torch.bfloat16)
    for _ in range(5):
        a @ b

    def products():
        for _ in range(10):
            a @ b

    return [10 * 2 * size**3 / timed(device, products)[0] / 1e12 for _ in range(runs)]


def fused_attention(device):
    """Never the plain one, which has a T x T matrix in memory."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION])


def make_model(c, device, dtype):
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Llama(c)
    finally:
        torch.set_default_dtype(default)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.normal_(0.0, 0.02)
    return model


def measure(c, o, device, dtype, parameters):
    model = make_model(c, device, dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.1, fused=device.type == "cuda")
    # bf16 parameters: torch's bf16 means that states are bf16, too
    cast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.float32)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    tokens = torch.randint(c["vocab"], (o.batch, o.seq + 1), device=device)

    def step():
        with cast, fused_attention(device):
            loss = model(tokens[:, :-1], tokens[:, 1:].contiguous())
        with fused_attention(device):
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    times, losses = [], []
    for i in range(o.warmup + o.steps):
        seconds, loss = timed(device, step)
        losses.append(float(loss))
        if i >= o.warmup:
            times.append(seconds)
        say(f"step {i + 1} of {o.warmup + o.steps}: {seconds:.3f} s, loss {losses[-1]:.4f}")
    seconds, tokens_of_step = statistics.median(times), o.batch * o.seq
    return {
        "step_s": spread(times), "samples_s": times, "tokens_per_s": tokens_of_step / seconds,
        "tflops_6pk": 6 * parameters * tokens_of_step / seconds / 1e12,
        "tflops_8pk": 8 * parameters * tokens_of_step / seconds / 1e12,
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "first_loss": losses[0], "last_loss": losses[-1],
    }


def run_variants(c, o, device, parameters):
    variants = []
    for name, dtype in (("autocast", torch.float32), ("bf16", torch.bfloat16)):
        if o.variant not in (name, "both"):
            continue
        say(f"{name}: parameters {str(dtype).removeprefix('torch.')}")
        torch.manual_seed(0)
        variant = {"name": name, "parameters": str(dtype).removeprefix("torch."), "error": None}
        try:
            variant.update(measure(c, o, device, dtype, parameters))
        except torch.cuda.OutOfMemoryError as error:
            variant["error"] = str(error).splitlines()[0]
            say(f"{name}: {variant['error']}")
        if device.type == "cuda":
            torch.cuda.empty_cache()
        variants.append(variant)
    return variants


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", required=True, help="config.json of a Llama")
    p.add_argument("--batch", type=int, default=1, help="rows of a step (default 1)")
    p.add_argument("--seq", type=int, default=2048, help="tokens of a row (default 2048)")
    p.add_argument("--steps", type=int, default=8, help="measured (default 8)")
    p.add_argument("--warmup", type=int, default=3, help="before them (default 3)")
    p.add_argument("--variant", choices=("both", "autocast", "bf16"), default="both")
    p.add_argument("--device", default="cuda", help="default cuda")
    p.add_argument("--json", help="write the report there (default: stdout)")
    o = p.parse_args()
    if min(o.batch, o.seq, o.steps) < 1 or o.warmup < 0:
        p.error("--batch, --seq and --steps are at least 1")
    try:
        return o, read_config(o.config)
    except (OSError, ValueError, KeyError) as error:
        p.error(f"--config {o.config}: {error!r}")


def main():
    o, c = options()
    device = torch.device(o.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu_reference: no GPU: torch.cuda is not available")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    size, runs = (8192, 10) if device.type == "cuda" else (256, 3)
    parameters, multiplied = count(c)
    say(f"{parameters} parameters, {o.batch} x {o.seq} tokens a step")
    rates = matrix_rate(device, size, runs)
    variants = run_variants(c, o, device, multiplied)
    rates += matrix_rate(device, size, runs)
    rate = spread(rates)
    for v in variants:
        if not v["error"]:
            v["share_of_matrix_rate_6pk"] = v["tflops_6pk"] / rate["median"]
            v["share_of_matrix_rate_8pk"] = v["tflops_8pk"] / rate["median"]
    report = {
        "program": "gpu_reference", "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "torch": torch.__version__, "cuda": torch.version.cuda,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None, "device": str(device),
        "config": c, "parameters": parameters, "multiplied_parameters": multiplied, "batch": o.batch, "seq": o.seq,
        "recompute": True, "matrix_size": size, "matrix_tflops": rate, "variants": variants,
    }
    text = json.dumps(report, indent=2)
    if o.json:
        with open(o.json, "w", encoding="utf-8") as f:
            f.write(text + "\n")
    else:
        print(text)
    return 0 if any(not v["error"] for v in variants) else 1


if __name__ == "__main__":
    sys.exit(main())
