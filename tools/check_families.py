#!/usr/bin/env python3
"""Every family of models, on small random checkpoints, against transformers.

    check_families.py BUILD [--device NAME] [CASE...]    a CASE is a family, or one of its checkpoints; none: all

Makes the checkpoints, saved by the transformers that is installed and, where keys have changed, with the older ones;
runs both sides in F32, eager attention; prints a line for each: the largest difference of the losses and of the
gradient norms (of their size) of 8 training steps, and of the logits behind 200 tokens; whether 64 tokens of greedy
text are equal; whether what ofl-finetune has written loads there with the loss that it has here. Exit 1 if any is
beyond its bound. Needs torch, transformers and tokenizers; a C compiler.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", CUDA_VISIBLE_DEVICES="", TRANSFORMERS_VERBOSITY="error")

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

LOSS, NORM, LOGITS = 1e-4, 1e-3, 1e-4
STEPS, SEQ, BATCH, PROMPT, TEXT = 8, 48, 2, 200, 64
BASE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=260, max_position_embeddings=512, bos_token_id=256, eos_token_id=257, pad_token_id=258,
            initializer_range=0.2, rms_norm_eps=1e-5)
LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)


def older_rope(c):
    """rope_theta and rope_scaling instead of rope_parameters."""
    rope = c.pop("rope_parameters")
    c["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    c["rope_scaling"] = None if kind == "default" else dict(rope, type=kind) if kind != "llama3" else dict(rope, rope_type=kind)


def older_gemma3(c):
    rope = c.pop("rope_parameters")
    c["rope_theta"] = rope["full_attention"]["rope_theta"]
    c["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    c["rope_scaling"] = dict(rope_type="linear", factor=4.0)
    del c["layer_types"]
    c["sliding_window_pattern"] = 3


def older_phi3(c):
    older_rope(c)
    for key in ("factor", "original_max_position_embeddings", "partial_rotary_factor", "attention_factor"):
        c["rope_scaling"].pop(key, None)
    c["partial_rotary_factor"] = 0.5
    c["original_max_position_embeddings"] = 64


def drop(*keys):
    def change(c):
        for key in keys:
            c.pop(key, None)
    return change


def factors(start):
    return [start + 0.25 * i for i in range(4)]


LONG = dict(rope_type="longrope", rope_theta=1e4, short_factor=factors(1.0), long_factor=factors(2.0),
            partial_rotary_factor=0.5)
def fused(directory):
    """All experts of a layer as one tensor, under the newer names: what the classes of transformers 5 have inside."""
    path = f"{directory}/model.safetensors"
    tensors, parts = load_file(path), {}
    for name in list(tensors):
        found = re.match(r"(.*\.)(?:block_sparse_moe|mlp)\.experts\.(\d+)\.(\w+)\.weight", name)
        if found:
            layer, expert, kind = found.groups()
            parts.setdefault(layer, {})[int(expert), PARTS[kind]] = tensors.pop(name)
        elif "block_sparse_moe" in name:
            tensors[name.replace("block_sparse_moe", "mlp")] = tensors.pop(name)
    for layer, of in parts.items():
        experts = range(1 + max(e for e, _ in of))
        tensors[layer + "mlp.experts.gate_up_proj"] = torch.stack([torch.cat([of[e, 0], of[e, 1]]) for e in experts])
        tensors[layer + "mlp.experts.down_proj"] = torch.stack([of[e, 2] for e in experts])
    save_file(tensors, path, metadata={"format": "pt"})


GENERATE_ONLY = {"GptOss"}
PARTS = dict(w1=0, w3=1, w2=2, gate_proj=0, up_proj=1, down_proj=2)
# family: {checkpoint: (class, what differs from BASE, change of the saved config.json or None, then of the files)}
CASES = {
    "llama": {
        "llama": ("Llama", {}, None),
        "llama-older": ("Llama", dict(rope_parameters=LLAMA3), older_rope),
        "llama-3.1": ("Llama", dict(rope_parameters=LLAMA3, tie_word_embeddings=True), None),
        "llama-bias": ("Llama", dict(attention_bias=True, mlp_bias=True), None),
        "llama-linear": ("Llama", dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0)), older_rope),
        "llama-yarn": ("Llama", dict(rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=4.0,
                                                          original_max_position_embeddings=64)), None),
        "llama-yarn-mscale": ("Llama", dict(rope_parameters=dict(
            rope_type="yarn", rope_theta=5e2, factor=8.0, original_max_position_embeddings=256, mscale=1.0,
            mscale_all_dim=0.5, beta_fast=16, beta_slow=2, truncate=False)), None),
        "llama-dynamic": ("Llama", dict(rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=4.0)), None),
        "llama-wide-heads": ("Llama", dict(head_dim=24, tie_word_embeddings=True), None),
    },
    "mistral": {
        "mistral": ("Mistral", dict(sliding_window=32), None),
        "mistral-no-window": ("Mistral", dict(sliding_window=None, head_dim=24), None),
        "mistral-older": ("Mistral", dict(sliding_window=7), older_rope),
    },
    "ministral": {
        "ministral": ("Ministral", dict(head_dim=16, sliding_window=24, layer_types=[
            "full_attention", "sliding_attention", "sliding_attention", "full_attention"]), None),
    },
    "ministral3": {
        "ministral3": ("Ministral3", dict(head_dim=16, max_position_embeddings=1024, rope_parameters=dict(
            rope_type="yarn", rope_theta=1e4, factor=2.0, original_max_position_embeddings=400, beta_fast=32.0,
            beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1)), None),
    },
    "qwen2": {
        "qwen2": ("Qwen2", {}, None),
        "qwen2-tied": ("Qwen2", dict(tie_word_embeddings=True), None),
        "qwen2-window": ("Qwen2", dict(use_sliding_window=True, sliding_window=20, max_window_layers=2), None),
        "qwen2-older": ("Qwen2", dict(use_sliding_window=True, sliding_window=20, max_window_layers=1),
                        lambda c: (older_rope(c), c.pop("layer_types"))),
    },
    "qwen3": {
        "qwen3": ("Qwen3", dict(head_dim=24), None),
        "qwen3-bias": ("Qwen3", dict(head_dim=16, attention_bias=True, tie_word_embeddings=True), None),
        "qwen3-older": ("Qwen3", dict(head_dim=16), lambda c: (older_rope(c), c.pop("layer_types"))),
    },
    "phi3": {
        "phi3": ("Phi3", dict(sliding_window=40), None),
        "phi3-long": ("Phi3", dict(rope_parameters=LONG, original_max_position_embeddings=64), None),
        "phi3-near": ("Phi3", dict(rope_parameters=LONG, original_max_position_embeddings=400), None),
        "phi3-older": ("Phi3", dict(rope_parameters=LONG, original_max_position_embeddings=64), older_phi3),
    },
    "granite": {
        "granite": ("Granite", dict(embedding_multiplier=6.0, residual_multiplier=0.3, attention_multiplier=0.125,
                                    logits_scaling=4.0, tie_word_embeddings=True), None),
        "granite-bias": ("Granite", dict(embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.2,
                                         logits_scaling=2.0, attention_bias=True, mlp_bias=True), None),
        "granite-older": ("Granite", dict(embedding_multiplier=6.0, residual_multiplier=0.3,
                                          attention_multiplier=0.125), older_rope),
    },
    "olmo2": {
        "olmo2": ("Olmo2", {}, None),
        "olmo2-older": ("Olmo2", dict(num_key_value_heads=4), lambda c: (older_rope(c), c.pop("num_key_value_heads"))),
    },
    "smollm3": {
        "smollm3": ("SmolLM3", dict(no_rope_layer_interval=2), None),
        "smollm3-window": ("SmolLM3", dict(no_rope_layers=[1, 0, 1, 0], use_sliding_window=True, sliding_window=16,
                                           attention_bias=True), None),
        "smollm3-older": ("SmolLM3", {}, lambda c: (older_rope(c), drop("layer_types", "no_rope_layers")(c))),
    },
    "gemma2": {
        "gemma2": ("Gemma2", dict(head_dim=24, sliding_window=16, query_pre_attn_scalar=20, attn_logit_softcapping=4.0,
                                  final_logit_softcapping=8.0), None),
        "gemma2-older": ("Gemma2", dict(head_dim=16, sliding_window=16, query_pre_attn_scalar=16),
                         lambda c: (older_rope(c), c.pop("layer_types"))),
    },
    "gemma3": {
        "gemma3": ("Gemma3", dict(head_dim=24, sliding_window=16, query_pre_attn_scalar=20, layer_types=[
            "sliding_attention", "full_attention", "sliding_attention", "full_attention"]), None),
        "gemma3-older": ("Gemma3", dict(head_dim=16, sliding_window=16, rope_parameters=dict(
            full_attention=dict(rope_type="linear", factor=4.0, rope_theta=1e5),
            sliding_attention=dict(rope_type="default", rope_theta=5e3)), layer_types=[
                "sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]), older_gemma3),
    },
    "mixtral": {
        "mixtral": ("Mixtral", dict(num_local_experts=6, num_experts_per_tok=2, sliding_window=32), None),
        "mixtral-older": ("Mixtral", dict(num_local_experts=5, num_experts_per_tok=2), older_rope),
        "mixtral-fused": ("Mixtral", dict(num_local_experts=6, num_experts_per_tok=3), None, fused),
    },
    "qwen3_moe": {
        "qwen3_moe": ("Qwen3Moe", dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=40, head_dim=24,
                                       norm_topk_prob=True), None),
        "qwen3_moe-dense": ("Qwen3Moe", dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=40, head_dim=16,
                                             mlp_only_layers=[1], decoder_sparse_step=2, use_sliding_window=True,
                                             sliding_window=20, attention_bias=True), None),
        "qwen3_moe-older": ("Qwen3Moe", dict(num_experts=5, num_experts_per_tok=5, moe_intermediate_size=24, head_dim=16),
                            lambda c: (older_rope(c), c.update(num_experts=c.pop("num_local_experts")))),
        "qwen3_moe-fused": ("Qwen3Moe", dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=40, head_dim=16,
                                             mlp_only_layers=[0]), None, fused),
    },
    "gpt_oss": {
        "gpt_oss": ("GptOss", dict(num_local_experts=6, num_experts_per_tok=2, head_dim=16, sliding_window=32,
                                   rope_parameters=dict(rope_type="yarn", rope_theta=1.5e5, factor=8.0, beta_fast=32.0, beta_slow=1.0,
                                                        truncate=False, original_max_position_embeddings=64)), None),
        "gpt_oss-older": ("GptOss", dict(num_local_experts=8, num_experts_per_tok=4, head_dim=16, sliding_window=16,
                                         swiglu_limit=0.5, rope_parameters=dict(
                                             rope_type="yarn", rope_theta=1e4, factor=4.0, truncate=False,
                                             original_max_position_embeddings=64)), older_rope),
    },
    "olmoe": {
        "olmoe": ("Olmoe", dict(num_experts=8, num_experts_per_tok=2), None),
        "olmoe-older": ("Olmoe", dict(num_experts=8, num_experts_per_tok=4, norm_topk_prob=True, num_key_value_heads=4),
                        older_rope),
        "olmoe-fused": ("Olmoe", dict(num_experts=8, num_experts_per_tok=2, tie_word_embeddings=True), None, fused),
    },
}


def byte_tokenizer(directory):
    """Ids 0 to 255 are bytes; 256 begins, 257 ends a text."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    chars = {**{chr(b): b for b in keep}, **{chr(256 + i): b for i, b in enumerate(rest)}}
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False)
    added = [dict(id=256 + i, content=s, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
             for i, s in enumerate(("<s>", "</s>"))]
    post = dict(type="TemplateProcessing",
                single=[{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                pair=[{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                special_tokens={"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}})
    model = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None,
                 fuse_unk=False, byte_fallback=False, ignore_merges=False, vocab=chars, merges=[])
    with open(f"{directory}/tokenizer.json", "w", encoding="utf-8") as f:
        json.dump(dict(version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None,
                       pre_tokenizer=level, post_processor=post, decoder=dict(level), model=model), f)
    with open(f"{directory}/tokenizer_config.json", "w", encoding="utf-8") as f:
        json.dump(dict(tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>"), f)


def make(directory, case):
    name, over, change, *files = case
    torch.manual_seed(7)
    config_class = "Gemma3Text" if name == "Gemma3" else name
    config = getattr(transformers, config_class + "Config")(**{**BASE, **over})
    model = getattr(transformers, name + "ForCausalLM")(config)
    with torch.no_grad():  # vectors are ones or zeros otherwise, which would hide what is done with them
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(directory)
    for rewrite in files:
        rewrite(directory)
    byte_tokenizer(directory)
    if change:
        with open(f"{directory}/config.json", encoding="utf-8") as f:
            c = json.load(f)
        change(c)
        with open(f"{directory}/config.json", "w", encoding="utf-8") as f:
            json.dump(c, f, indent=1)


def load(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")


def theirs_trained(directory, ids):
    model = load(directory).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    losses, norms, count = [], [], BATCH * SEQ
    for step in range(STEPS):
        x, y = ids[step * count:(step + 1) * count].reshape(BATCH, SEQ), ids[step * count + 1:(step + 1) * count + 1]
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x).logits.reshape(count, -1), y)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1e9).item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


def finetune(build, device, directory, text, *more):
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        run = subprocess.run(
            [f"{build}/ofl-finetune", "--model", directory, "--data", text, "--seq", str(SEQ), "--batch", str(BATCH),
             "--in-memory", "--device", device, "--report", report.name, *more], capture_output=True, check=False)
        if run.returncode:
            raise RuntimeError(run.stderr.decode().strip())
        with open(report.name, encoding="utf-8") as f:
            return json.load(f)


def theirs_text(model, prompt):
    x = torch.tensor([prompt])
    y = model.generate(input_ids=x, attention_mask=torch.ones_like(x), max_new_tokens=TEXT, do_sample=False,
                       output_logits=True, return_dict_in_generate=True)
    top = torch.cat(y.logits).topk(2).values
    tokens = y.sequences[0, len(prompt):].tolist()
    return bytes(t for t in tokens if t < 256), (top[:, 0] - top[:, 1]).min().item()


def ours_text(build, device, directory, prompt):
    run = subprocess.run(
        [f"{build}/ofl-generate", "--model", directory, "--prompt", prompt, "--max-tokens", str(TEXT), "--temperature",
         "0", "--device", device], capture_output=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr.decode().strip())
    return run.stdout[:-1] if run.stdout.endswith(b"\n") else run.stdout


def ours_logits(program, directory, prompt):
    run = subprocess.run([program, directory], input=" ".join(map(str, prompt)).encode(), capture_output=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr.decode().strip())
    return torch.frombuffer(bytearray(run.stdout), dtype=torch.float32)


def options(argv):
    """BUILD, the device, the cases."""
    device = "host"
    if "--device" in argv:
        at = argv.index("--device")
        device = argv[at + 1]
        argv = argv[:at] + argv[at + 2:]
    return argv[1], device, argv[2:]


def largest(a, b, relative=False):
    return max(abs(x - y) / (abs(x) if relative else 1) for x, y in zip(a, b, strict=True))


def check_trained(build, device, directory, out, ids, text):
    """Differences of losses, of norms, and of what was written."""
    losses, norms = theirs_trained(directory, ids)
    ours = finetune(build, device, directory, text, "--steps", str(STEPS), "--lr", "1e-3", "--weight-decay", "0.1", "--decay-all", "--clip", "0",
                    "--beta2", "0.95", "--out", out, "--dtype", "f32")
    x, y = ids[:BATCH * SEQ].reshape(BATCH, SEQ), ids[1:BATCH * SEQ + 1]
    with torch.no_grad():
        back = torch.nn.functional.cross_entropy(load(out)(x).logits.reshape(BATCH * SEQ, -1), y).item()
    again = finetune(build, device, out, text, "--steps", "1", "--lr", "0")["loss"][0]
    shutil.rmtree(out)
    return largest(losses, ours["loss"]), largest(norms, ours["grad_norm"], True), abs(back - again)


def check(build, device, program, work, name, case, ids, text):
    directory = os.path.join(work, name)
    make(directory, case)
    loss, norm, written = (0, 0, 0) if case[0] in GENERATE_ONLY else \
        check_trained(build, device, directory, directory + "-out", ids, text)
    prompt = [256, *ids[:PROMPT - 1].tolist()]
    model = load(directory).eval()
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
        far = (logits - ours_logits(program, directory, prompt)).abs().max().item()
        want, close = theirs_text(model, prompt)
    with open(text, encoding="utf-8") as f:
        same = ours_text(build, device, directory, f.read()[:PROMPT - 1]) == want
    good = loss <= LOSS and norm <= NORM and far <= LOGITS and same and written <= LOSS
    print(f"{name:20} loss {loss:.1e}  norm {norm:.1e}  logits {far:.1e}  text {'equal' if same else 'DIFFERS'}"
          f" (closest call {close:.1e})  written {written:.1e}  {'' if good else 'FAILED'}", flush=True)
    shutil.rmtree(directory)
    return good


def build_logits(build, work):
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    program = os.path.join(work, "logits")
    libs = subprocess.run(["pkg-config", "--libs", "liburing", "hwloc", "libxxhash", "jansson", "openblas"],
                          capture_output=True, text=True, check=True).stdout.split()
    subprocess.run(["gcc", "-O1", "-I", here, f"{here}/tools/logits.c", f"{build}/libexamples.a", f"{build}/liboffload.a",
                    *libs, "-lnuma", "-lm", "-pthread", "-ldl", "-o", program], check=True)
    return program


def main():
    build, device, wanted = options(sys.argv)
    torch.set_num_threads(1)
    letters = "the quick brown fox jumps over a lazy dog, and then 7 times more; "
    text_ids = list((letters * 40).encode())
    generator = torch.Generator().manual_seed(3)
    for i in torch.randint(0, len(text_ids), (600,), generator=generator).tolist():
        text_ids[i] = 97 + i % 26
    ids = torch.tensor(text_ids)
    known = {n: c for family in CASES.values() for n, c in family.items()}
    names = [n for w in wanted or CASES for n in (CASES[w] if w in CASES else [w])]
    good = True
    with tempfile.TemporaryDirectory() as work:
        text = os.path.join(work, "text")
        with open(text, "wb") as f:
            f.write(bytes(text_ids))
        program = build_logits(build, work)
        for name in names:
            try:
                good &= check(build, device, program, work, name, known[name], ids, text)
            except RuntimeError as error:
                print(f"{name:20} FAILED: {error}", flush=True)
                good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
