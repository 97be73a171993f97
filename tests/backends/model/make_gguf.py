"""Makes the same model as one file for llama.cpp: ``python make_gguf.py FILE``. Needs gguf from PyPI."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gguf
import make
import numpy as np

_GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path: Path) -> None:
    """The same model as one file in float32."""
    writer = gguf.GGUFWriter(str(path), "qwen3")
    writer.add_name("statecar-tiny")
    writer.add_context_length(make.CONTEXT)
    writer.add_embedding_length(make.HIDDEN)
    writer.add_block_count(make.LAYERS)
    writer.add_feed_forward_length(make.FFN)
    writer.add_head_count(make.HEADS)
    writer.add_head_count_kv(make.KV_HEADS)
    writer.add_key_length(make.HEAD_DIM)
    writer.add_value_length(make.HEAD_DIM)
    writer.add_rope_freq_base(make.THETA)
    writer.add_layer_norm_rms_eps(make.EPS)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer)
    content = (make.HERE / "model.safetensors").read_bytes()
    data = content[8 + int.from_bytes(content[:8], "little") :]
    for name, tensor in make.weights().items():
        begin, end = tensor["data_offsets"]
        values = np.frombuffer(data[begin:end], "<f2").reshape(tensor["shape"])
        writer.add_tensor(_gguf_name(name), np.ascontiguousarray(values, dtype="float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any) -> None:
    kind = gguf.TokenType
    tokenizer = make.tokenizer()
    size = make.weights()["model.embed_tokens.weight"]["shape"][0]
    tokens, kinds = [f"[PAD{n}]" for n in range(size)], [kind.UNUSED] * size
    for text, number in tokenizer["model"]["vocab"].items():
        tokens[number], kinds[number] = text, kind.NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = kind.CONTROL if added["special"] else kind.USER_DEFINED
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokens.index(make.END))
    writer.add_pad_token_id(tokens.index(make.PAD))
    writer.add_add_bos_token(False)
    writer.add_chat_template(make.TEMPLATE)


def _gguf_name(name: str) -> str:
    if not name.startswith("model.layers."):
        return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_GGUF_NAMES[rest.removesuffix('.weight')]}.weight"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(target)
