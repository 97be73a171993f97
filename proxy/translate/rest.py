"""A text that one process began and another one ends: whether its model writes on, and how it is asked (wire §10.5)."""

from __future__ import annotations

from typing import Any

from proxy.translate.dialects import Dialect
from proxy.translate.input import thought_in

Chat = dict[str, Any]
Item = dict[str, Any]

_SWITCHES = "chat_template_kwargs"
_PLAIN = frozenset(
    {
        *("model", "messages", "stream", "stream_options", "user", "max_tokens", "max_completion_tokens"),
        *("temperature", "top_p", "presence_penalty", "frequency_penalty", "reasoning_effort", "verbosity"),
        *("tools", "tool_choice", "parallel_tool_calls", _SWITCHES, "thinking", "provider"),
        *("top_k", "min_p", "repetition_penalty", "seed", "skip_special_tokens"),
    }
)
"""Keys that leave the answer plain text, of which any piece may be said in a call of its own: no schema, no stops."""


def rest_of(chat: Chat, told: list[Item], dialect: Dialect, tokens: int) -> Chat | None:
    """The body that asks for the rest of an answer. ``chat``: what asked for all of it; ``told``: its items so far, the
    last of them the message to go on with; ``tokens``: their number. None where the rest might not be what the whole
    would have been.
    """
    *thoughts, message = told
    if not dialect.continues or chat.keys() - _PLAIN:
        return None
    if chat.get("tool_choice", "auto") != "auto":
        return None
    if len(thoughts) > 1 or any(item["type"] != "reasoning" for item in thoughts):
        return None
    text = message["content"][0]["text"]
    said: dict[str, Any] = {"role": "assistant", "content": text}
    rest = {**chat, "continue_final_message": True, "add_generation_prompt": False}
    if thoughts:
        if not dialect.reasoning_fields or not (thought := thought_in(thoughts[0]).strip("\n")):
            return None
        # the line ends between a thought and its text are the template's
        said |= {"content": text.lstrip("\n"), **dict.fromkeys(dialect.reasoning_fields, thought)}
    else:
        given = chat.get(_SWITCHES)  # else a parser may take the rest for a thought
        rest[_SWITCHES] = {**(given if isinstance(given, dict) else {}), "enable_thinking": False}
    rest["messages"] = [*chat["messages"], said]
    if (limit := dialect.max_tokens_field) in chat:
        rest[limit] = chat[limit] - tokens
    return rest
