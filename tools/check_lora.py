#!/usr/bin/env python3
"""Adapters over frozen weights beside PEFT: a table, exit 1 if a figure is beyond its bound.

    check_lora.py BUILD [CASE...]      CASE: part of a line's name; none: all
    check_lora.py BUILD --large        a model of 300 M parameters in 15 % of its BF16 size, without a store

Small random models of tools/check_families.py, Llamas in GGUF files of tools/check_gguf.py and packed directories of
tools/check_packed.py beside their dequantized weights. PEFT makes an adapter with random A and B and saves it; both sides go on with it for 20 steps of AdamW in F32.
Largest difference of the losses, of the gradient norms (of their size); of the loss that PEFT has with the adapter that
ofl-finetune has written; of that of the model that --merge has written; whether 48 tokens of greedy text of ofl-generate
--adapter are PEFT's. In packed directories the smallest budgets
have to give the same losses and adapter. Needs torch, transformers, peft, gguf, compressed-tensors.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
warnings.filterwarnings("ignore")

import check_families as families  # noqa: E402
import check_gguf  # noqa: E402
import check_packed  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402

LOSS, NORM, WRITTEN = 1e-3, 1e-3, 1e-4
STEPS, SEQ, BATCH, TEXT = 20, 48, 2, 48
ALL = "all-linear"
# name: (base, LoraConfig)
CASES = {
    "llama": ("llama", dict(r=8, lora_alpha=16, target_modules=ALL)),
    "llama q,v": ("llama", dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])),
    "llama rslora": ("llama", dict(r=16, lora_alpha=8, target_modules=ALL, use_rslora=True)),
    "llama dora": ("llama", dict(r=8, lora_alpha=16, target_modules=ALL, use_dora=True)),
    "llama-bias dora": ("llama-bias", dict(r=8, lora_alpha=16, target_modules=ALL, use_dora=True)),
    "llama bf16": ("llama", dict(r=8, lora_alpha=16, target_modules=ALL)),
    "qwen3": ("qwen3-bias", dict(r=8, lora_alpha=16, target_modules=ALL)),
    "qwen3 rslora": ("qwen3", dict(r=8, lora_alpha=4, target_modules=["o_proj", "down_proj"], use_rslora=True)),
    "phi3": ("phi3", dict(r=8, lora_alpha=16, target_modules=ALL)),
    "phi3 dora": ("phi3", dict(r=8, lora_alpha=16, target_modules=["qkv_proj", "gate_up_proj"], use_dora=True)),
    "gemma2": ("gemma2", dict(r=8, lora_alpha=16, target_modules=ALL)),
    "gemma2 dora": ("gemma2", dict(r=8, lora_alpha=16, target_modules=ALL, use_dora=True)),
    "olmo2": ("olmo2", dict(r=8, lora_alpha=16, target_modules=ALL)),
    "granite": ("granite", dict(r=8, lora_alpha=16, target_modules=ALL)),
    "gguf q8_0": ("Q8_0", dict(r=8, lora_alpha=16, target_modules=ALL)),
    "gguf q4_0": ("Q4_0", dict(r=8, lora_alpha=16, target_modules=ALL)),
    "gguf q4_0 dora": ("Q4_0", dict(r=8, lora_alpha=16, target_modules=ALL, use_dora=True)),
    "fp8": ("fp8 128 x 128", dict(r=8, lora_alpha=16, target_modules=ALL)),
    "fp8 dora": ("fp8 128 x 128, qwen3", dict(r=8, lora_alpha=16, target_modules=ALL, use_dora=True)),
    "int4": ("int4 groups", dict(r=8, lora_alpha=16, target_modules=ALL)),
    "int4 zeros dora": ("int4 groups, zeros, phi3", dict(r=8, lora_alpha=16, target_modules=ALL, use_dora=True)),
    "gptq": ("gptq, desc_act", dict(r=8, lora_alpha=16, target_modules=ALL)),
    "gptq dora": ("gptq, phi3", dict(r=8, lora_alpha=16, target_modules=ALL, use_dora=True)),
    "awq": ("awq", dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])),
}


def text():
    letters = "the quick brown fox jumps over a lazy dog, and then 7 times more; "
    ids = list((letters * 40).encode())
    generator = torch.Generator().manual_seed(3)
    for i in torch.randint(0, len(ids), (600,), generator=generator).tolist():
        ids[i] = 97 + i % 26
    return bytes(ids)


def bytes_only(directory):
    """A tokenizer without start and end, for a vocabulary of 256."""
    families.byte_tokenizer(directory)
    path = os.path.join(directory, "tokenizer.json")
    with open(path, encoding="utf-8") as f:
        j = json.load(f)
    j.update(added_tokens=[], post_processor=None)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(j, f)
    with open(os.path.join(directory, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(dict(tokenizer_class="PreTrainedTokenizerFast"), f)


def base_of(work, kind):
    """The model that ofl reads, that transformers reads, and where the tokenizer is."""
    if kind in check_packed.CASES:
        plain, packed = os.path.join(work, "plain"), os.path.join(work, "packed")
        check_packed.make(plain, packed, check_packed.CASES[kind])
        return packed, plain, packed
    if kind not in check_gguf.SCALES:
        known = {n: c for family in families.CASES.values() for n, c in family.items()}
        directory = os.path.join(work, "base")
        families.make(directory, known[kind])
        return directory, directory, directory
    files = check_gguf.make(pathlib.Path(work) / "base.gguf", np.random.default_rng(5), kind, kind, True, False)
    check_gguf.dequantized(files, pathlib.Path(work) / "dequantized")
    tokenizer = os.path.join(work, "tokenizer")
    os.mkdir(tokenizer)
    bytes_only(tokenizer)
    return str(files[0]), os.path.join(work, "dequantized"), tokenizer


def to_bf16(directory):
    model = families.load(directory).to(torch.bfloat16)
    model.save_pretrained(directory)


def start(directory, settings, path):
    """An adapter without zeros, saved."""
    torch.manual_seed(11)
    model = get_peft_model(families.load(directory), LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.02)
            elif "magnitude" in name:
                p.mul_(1 + 0.1 * torch.randn_like(p))
    model.save_pretrained(path)


def loss_of(model, ids):
    x, y = ids[:BATCH * SEQ].reshape(BATCH, SEQ), ids[1:BATCH * SEQ + 1]
    return torch.nn.functional.cross_entropy(model(input_ids=x).logits.reshape(BATCH * SEQ, -1), y)


def theirs(directory, adapter, ids):
    model = PeftModel.from_pretrained(families.load(directory), adapter, is_trainable=True).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    losses, norms, count = [], [], BATCH * SEQ
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, ids[step * count:])
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1e9).item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


def finetune(build, model, tokenizer, data, *more, budgets=("--in-memory",)):
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        done = subprocess.run(
            [f"{build}/ofl-finetune", "--device", "host", "--model", model, "--tokenizer", tokenizer, "--data", data, "--seq", str(SEQ),
             "--batch", str(BATCH), *budgets, "--report", report.name, *more], capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.decode().strip())
        with open(report.name, encoding="utf-8") as f:
            return json.load(f)


def same_bits(build, ours, *args):
    """In the smallest device budget, which a refusal names."""
    host = ("--host-mem", "4M", "--device-mem")
    try:
        finetune(build, *args, budgets=(*host, "64K"))
        return False
    except RuntimeError as error:
        least = str(error).split("smallest workable --device-mem is ")[1].split()[0]
    tight = finetune(build, *args, budgets=(*host, least))
    return all(ours[key] == tight[key] for key in ("loss", "grad_norm", "state_hash"))


def merged(build, work, model, adapter, ids):
    """The loss of the merged model; None where the base is packed, which is refused."""
    out = os.path.join(work, "merged")
    done = subprocess.run([f"{build}/ofl-finetune", "--model", model, "--adapter", adapter, "--merge", "--out", out],
                          capture_output=True, check=False)
    if done.returncode == 2 and (model.endswith(".gguf") or b"quantization_config" in done.stderr):
        return None
    if done.returncode:
        raise RuntimeError(done.stderr.decode().strip())
    with torch.no_grad():
        return loss_of(families.load(out).eval(), ids).item()


def same_text(build, model, tokenizer, peft_model, adapter):
    prompt = "the quick brown fox "
    done = subprocess.run(
        [f"{build}/ofl-generate", "--device", "host", "--model", model, "--tokenizer", tokenizer, "--adapter", adapter, "--prompt", prompt,
         "--max-tokens", str(TEXT), "--temperature", "0"], capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode().strip())
    x = torch.tensor([[256, *prompt.encode()]] if peft_model.config.vocab_size > 256 else [list(prompt.encode())])
    y = peft_model.generate(input_ids=x, attention_mask=torch.ones_like(x), max_new_tokens=TEXT, do_sample=False)
    want = bytes(t for t in y[0, x.shape[1]:].tolist() if t < 256)
    got = done.stdout[:-1] if done.stdout.endswith(b"\n") else done.stdout
    return got.decode(errors="replace").encode() == want.decode(errors="replace").encode()


def check(build, name, work, data, ids):
    kind, settings = CASES[name]
    model, plain, tokenizer = base_of(work, kind)
    if "bf16" in name:
        to_bf16(model)
    adapter, out = os.path.join(work, "adapter"), os.path.join(work, "out")
    start(plain, settings, adapter)
    losses, norms = theirs(plain, adapter, ids)
    options = ["--adapter", adapter, "--steps", str(STEPS), "--lr", "1e-3", "--weight-decay", "0.1", "--clip", "0", "--beta2", "0.95"]
    ours = finetune(build, model, tokenizer, data, *options, "--out", out)
    bits = kind not in check_packed.CASES or same_bits(build, ours, model, tokenizer, data, *options)
    loss = families.largest(losses, ours["loss"])
    norm = families.largest(norms, ours["grad_norm"], True)
    again = finetune(build, model, tokenizer, data, "--adapter", out, "--steps", "1", "--lr", "0")["loss"][0]
    peft_model = PeftModel.from_pretrained(families.load(plain), out).eval()
    with torch.no_grad():
        written = abs(loss_of(peft_model, ids).item() - again)
    one = merged(build, work, model, out, ids)
    one = None if one is None else abs(one - again)
    same = same_text(build, model, tokenizer, peft_model, out)
    good = loss <= LOSS and norm <= NORM and written <= WRITTEN and (one is None or one <= (0.02 if "bf16" in name else WRITTEN)) and same and bits
    print(f"{name:16} loss {loss:.1e}  norm {norm:.1e}  written {written:.1e}  merged "
          f"{'refused' if one is None else format(one, '.1e')}  text {'equal' if same else 'DIFFERS'}  "
          f"{'' if bits else 'other bits in the smallest budget '}{'' if good else 'FAILED'}",
          flush=True)
    return good


def large(build):
    """15 % of the weights for device and host memory together; the adapter in PEFT."""
    with tempfile.TemporaryDirectory() as work:
        model, data, out = (os.path.join(work, n) for n in ("model", "text", "out"))
        subprocess.run([sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "make_model.py"), model, "--layers",
                        "26", "--hidden", "1024", "--heads", "16", "--kv-heads", "8", "--ffn", "2816", "--vocab", "258"], check=True)
        families.byte_tokenizer(model)
        with open(data, "wb") as f:
            f.write(text())
        size = os.path.getsize(os.path.join(model, "model.safetensors"))
        budget = int(size * 0.15)
        device = int(budget * 0.55)
        r = ["--lora", "8", "--lora-targets", "q_proj,v_proj", "--seq", "128", "--lr", "1e-3", "--steps", "3", "--out", out]
        with tempfile.NamedTemporaryFile(suffix=".json") as report:
            done = subprocess.run([f"{build}/ofl-finetune", "--device", "host", "--model", model, "--data", data, "--device-mem", str(device),
                                   "--host-mem", str(budget - device), "--report", report.name, *r], check=False)
            if done.returncode:
                return False
            with open(report.name, encoding="utf-8") as f:
                j = json.load(f)
        again = finetune(build, model, model, data, "--adapter", out, "--steps", "1", "--lr", "0", "--seq", "48")["loss"][0]
        peft_model = PeftModel.from_pretrained(families.load(model), out).eval()
        with torch.no_grad():
            theirs_loss = loss_of(peft_model, torch.tensor(list(text()))).item()
        written = j["moved"]["nvme_write"]
        good = abs(theirs_loss - again) <= LOSS and written == 0
        print(f"weights {size} bytes, budgets {budget}: losses {['%.4f' % v for v in j['loss']]}, seconds {['%.1f' % v for v in j['step_s']]},"
              f" written to drives {written}; loss {again:.5f}, PEFT {theirs_loss:.5f} {'' if good else 'FAILED'}")
        return good


def main():
    torch.set_num_threads(1)
    build, wanted = os.path.abspath(sys.argv[1]), sys.argv[2:]
    if wanted == ["--large"]:
        return 0 if large(build) else 1
    good = True
    for name in CASES:
        if wanted and not any(w in name for w in wanted):
            continue
        work = tempfile.mkdtemp()
        data = os.path.join(work, "text")
        with open(data, "wb") as f:
            f.write(text())
        try:
            good &= check(build, name, work, data, torch.tensor(list(text())))
        except RuntimeError as error:
            print(f"{name:16} FAILED: {error}", flush=True)
            good = False
        shutil.rmtree(work)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
