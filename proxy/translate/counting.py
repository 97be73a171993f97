"""How a chat server's own tokenizer is asked how long a request is (wire §3.6). Sans I/O: questions out, answers in."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from proxy.errors import UpstreamError

Chat = dict[str, Any]


class Counted(NamedTuple):
    """How many tokens a prompt has, and which; none named where the server only counts."""

    number: int
    tokens: list[Any]


Counting = Generator[tuple[str, dict[str, Any]], Any, Counted]
"""Yields (path at the server's root, body to POST there), is sent the JSON of the answer, returns the tokens."""

_TEMPLATED = (
    *("model", "messages", "tools", "chat_template_kwargs"),
    *("continue_final_message", "add_generation_prompt"),
)


def _tokenize(chat: Chat) -> Counting:
    """vLLM, SGLang: template and tokenizer in one."""
    answer = yield "/tokenize", {"add_generation_prompt": True, **_of(chat)}
    count = _whole(answer, "count")
    tokens = answer.get("tokens")
    return Counted(count, tokens if isinstance(tokens, list) else [])


def _template_then_tokenize(chat: Chat) -> Counting:
    """llama.cpp: its chat completions tokenize with special tokens added and read, so the same here."""
    rendered = yield "/apply-template", _of(chat)
    prompt = rendered.get("prompt") if isinstance(rendered, dict) else None
    if not isinstance(prompt, str):
        raise UpstreamError("The upstream's /apply-template gave no prompt.")
    answer = yield "/tokenize", {"content": prompt, "add_special": True, "parse_special": True}
    tokens = answer.get("tokens") if isinstance(answer, dict) else None
    if not isinstance(tokens, list):
        raise UpstreamError("The upstream's tokenizer gave no tokens.")
    return Counted(len(tokens), tokens)


TOKENIZERS: dict[str, Callable[[Chat], Counting]] = {
    "vllm": _tokenize,
    "sglang": _tokenize,
    "llamacpp": _template_then_tokenize,
}
"""Kind of upstream to how its tokenizer is asked; other kinds have none."""


def prompt_tokens(answer: Any) -> int:
    """The tokens of the prompt that a plain chat answer tells. Raises UpstreamError when it tells none."""
    return _whole(answer.get("usage") if isinstance(answer, dict) else None, "prompt_tokens")


def _of(chat: Chat) -> Chat:
    return {key: chat[key] for key in _TEMPLATED if key in chat}


def _whole(answer: Any, key: str) -> int:
    value = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise UpstreamError(f"The upstream's answer tells no '{key}'.")
    return value
