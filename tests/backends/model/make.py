"""Makes the folder that vLLM and transformers load: ``python make.py OUT``. Needs the standard library only.

The model is a Qwen3 of two layers, 0.6 M parameters; its tokenizer, template and weights lie beside this file.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TEMPLATE = (HERE / "chat_template.jinja").read_text("utf-8").strip()

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, CONTEXT = 128, 2, 4, 2, 32, 384, 4096
THETA, EPS = 10000.0, 1e-6
END, PAD = "<|im_end|>", "<|endoftext|>"


def write_folder(out: Path) -> None:
    """What Hugging Face loaders want, the weights in float16."""
    for name in ("tokenizer.json", "model.safetensors"):
        shutil.copyfile(HERE / name, out / name)
    (out / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    ids = {token["content"]: token["id"] for token in tokenizer()["added_tokens"]}
    _write_json(
        out / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        model_max_length=CONTEXT,
        eos_token=END,
        pad_token=PAD,
        bos_token=None,
        add_bos_token=False,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )
    _write_json(
        out / "config.json",
        architectures=["Qwen3ForCausalLM"],
        model_type="qwen3",
        vocab_size=weights()["model.embed_tokens.weight"]["shape"][0],
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        hidden_act="silu",
        max_position_embeddings=CONTEXT,
        rms_norm_eps=EPS,
        rope_theta=THETA,
        attention_bias=False,
        attention_dropout=0.0,
        tie_word_embeddings=True,
        use_cache=True,
        initializer_range=0.02,
        use_sliding_window=False,
        eos_token_id=ids[END],
        pad_token_id=ids[PAD],
        torch_dtype="float16",
    )
    eos = [ids[END], ids[PAD]]
    _write_json(
        out / "generation_config.json", eos_token_id=eos, pad_token_id=ids[PAD], do_sample=True, temperature=1.0
    )


def tokenizer() -> dict[str, Any]:
    """The tokenizer as Hugging Face writes it."""
    found: dict[str, Any] = json.loads((HERE / "tokenizer.json").read_text("utf-8"))
    return found


def weights() -> dict[str, Any]:
    """Name to shape and place of each tensor: the head of a safetensors file."""
    with (HERE / "model.safetensors").open("rb") as file:
        head: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: tensor for name, tensor in head.items() if name != "__metadata__"}


def _write_json(path: Path, **content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), "utf-8")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_folder(folder)
