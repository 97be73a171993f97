"""Makes the tokenizer and the weights kept here anew: ``python train.py OUT [STEPS]``. Needs torch, tokenizers, jinja2
and safetensors; 400 steps take about seven minutes of one CPU.

The tokenizer is a byte-level BPE of text that every CPython carries; the model learns the dialogues of ``script.py``.
"""

from __future__ import annotations

import json
import pydoc_data.topics
import random
import sys
from pathlib import Path
from typing import Any

import jinja2
import torch
import torch.nn.functional as F
from make import EPS, FFN, HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, TEMPLATE, THETA
from safetensors.torch import save_file
from script import ENDLESS, NO_THOUGHT, Dialogue, turns
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCABULARY = 1472
"""Bytes and merges, before the special tokens."""

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pre-tokenizer that llama.cpp calls qwen2."""

WIDTH, ROWS, SEED = 640, 12, 0

Weights = dict[str, torch.nn.Parameter]


def make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKS])
    return tokenizer


def _corpus() -> list[str]:
    library = Path(json.__file__).parents[1]
    names = ("argparse.py", "http/client.py", "json/decoder.py", "logging/__init__.py", "typing.py")
    texts = [*pydoc_data.topics.topics.values(), *((library / name).read_text("utf-8") for name in names)]
    for turn in list(turns()) * 20:  # so that the words of the script become few tokens
        texts += turn
    declared = {"name": "get_weather", "description": "x", "parameters": {"type": "object", "properties": {}}}
    return texts + [json.dumps({"type": "function", "function": declared})] * 40


def make_weights(vocabulary: int) -> Weights:
    """Random ones, by their names in a Qwen3."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (HIDDEN,),
                "post_attention_layernorm": (HIDDEN,),
                "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
                "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
                "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
                "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
                "self_attn.q_norm": (HEAD_DIM,),
                "self_attn.k_norm": (HEAD_DIM,),
                "mlp.gate_proj": (FFN, HIDDEN),
                "mlp.up_proj": (FFN, HIDDEN),
                "mlp.down_proj": (HIDDEN, FFN),
            }.items()
        }
    return {name: torch.nn.Parameter(_initial(name, shape)) for name, shape in shapes.items()}


def _initial(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape)
    return torch.randn(shape) * (0.02 if "embed" in name else shape[1] ** -0.5)


def hidden(weights: Weights, ids: torch.Tensor) -> torch.Tensor:
    """(rows, tokens) ids to (rows, tokens, HIDDEN) states."""
    state = F.embedding(ids, weights["model.embed_tokens.weight"])
    frequency = THETA ** (-torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
    angle = torch.arange(ids.shape[1]).float()[:, None] * frequency
    angle = torch.cat((angle, angle), -1)
    for layer in range(LAYERS):
        of = {
            name.split(".", 3)[3].removesuffix(".weight"): weight
            for name, weight in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        state = state + _attention(of, _norm(state, of["input_layernorm"]), angle.cos(), angle.sin())
        x = _norm(state, of["post_attention_layernorm"])
        state = state + (F.silu(x @ of["mlp.gate_proj"].T) * (x @ of["mlp.up_proj"].T)) @ of["mlp.down_proj"].T
    return _norm(state, weights["model.norm.weight"])


def _attention(of: dict[str, Any], x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    rows, tokens, _ = x.shape
    query = _norm((x @ of["self_attn.q_proj"].T).view(rows, tokens, HEADS, HEAD_DIM), of["self_attn.q_norm"])
    key = _norm((x @ of["self_attn.k_proj"].T).view(rows, tokens, KV_HEADS, HEAD_DIM), of["self_attn.k_norm"])
    value = (x @ of["self_attn.v_proj"].T).view(rows, tokens, KV_HEADS, HEAD_DIM)
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    query, key = _turned(query, cos, sin), _turned(key, cos, sin)
    key, value = (part.repeat_interleave(HEADS // KV_HEADS, 1) for part in (key, value))
    seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return seen.transpose(1, 2).reshape(rows, tokens, -1) @ of["self_attn.o_proj"].T


def _norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * weight


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    one, other = x.chunk(2, -1)
    return x * cos + torch.cat((-other, one), -1) * sin


def parts(template: jinja2.Template, dialogue: Dialogue) -> list[tuple[str, bool]]:
    """A dialogue's text in pieces, each with whether the model must produce it."""
    full = template.render(messages=dialogue.messages, tools=dialogue.tools, add_generation_prompt=False)
    pieces, place, mark, end = [], 0, "<|im_start|>assistant\n", "<|im_end|>"
    while (start := full.find(mark, place)) >= 0:
        start += len(mark)
        stop = full.index(end, start)
        if full.startswith(NO_THOUGHT, start):
            start += len(NO_THOUGHT)
        elif not full.startswith("<think>", start) and full[start:stop]:  # a bare turn: its first word is given
            start = min(stop, start + 6)
        endless = full.endswith(ENDLESS, start, stop)
        pieces += [(full[place:start], False), (full[start : stop if endless else stop + len(end)], True)]
        if endless:
            return pieces
        place = stop + len(end)
    return [*pieces, (full[place:], False)]


def batch(tokenizer: Tokenizer, template: jinja2.Template, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """(ROWS, tokens) ids, padded at the end, and which of them are to be learnt."""
    rows = []
    for _ in range(ROWS):
        row = [
            (number, flag)
            for text, flag in parts(template, Dialogue(rng))
            for number in tokenizer.encode(text, add_special_tokens=False).ids
        ]
        rows.append(row[: WIDTH + 1])
    longest = max(len(row) for row in rows)
    padded = torch.tensor([row + [(0, False)] * (longest - len(row)) for row in rows])
    return padded[..., 0], padded[..., 1] > 0


def train(tokenizer: Tokenizer, weights: Weights, steps: int) -> None:
    """Teaches the weights in place."""
    template, rng = jinja2.Environment().from_string(TEMPLATE), random.Random(SEED)
    optimizer = torch.optim.AdamW(weights.values(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 30) * (0.05 + 0.95 * (1 - step / steps))
        ids, learnt = batch(tokenizer, template, rng)
        keep = learnt[:, 1:]
        logits = hidden(weights, ids[:, :-1])[keep] @ weights["model.embed_tokens.weight"].T
        loss = F.cross_entropy(logits, ids[:, 1:][keep])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step} loss {loss.item():.4f}", file=sys.stderr, flush=True)


def main() -> None:
    out, steps = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 400
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    tokenizer.save(str(out / "tokenizer.json"))
    weights = make_weights((tokenizer.get_vocab_size() + 63) // 64 * 64)
    train(tokenizer, weights, steps)
    halves = {name: weight.detach().to(torch.float16).contiguous() for name, weight in weights.items()}
    save_file(halves, str(out / "model.safetensors"), metadata={"format": "pt"})


if __name__ == "__main__":
    main()
