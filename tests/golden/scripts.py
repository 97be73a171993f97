"""For each golden stream the request of the client and the chunks of the backend that must produce it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.backend import DONE

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather for a city",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@dataclass(frozen=True)
class Script:
    """``request``: beside model and input; ``chunks``: the payloads of the backend's stream."""

    chunks: list[Any]
    request: dict[str, Any] = field(default_factory=dict)


def chunk(delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "mock-model",
        "choices": [choice],
    }


def stream(deltas: list[Any], finish: str, figures: tuple[int, int], reasoning: int = 0) -> list[Any]:
    """The payloads of a usual stream: the role, the deltas (or whole chunks), the finish, the usage, ``[DONE]``."""
    usage = {
        "prompt_tokens": figures[0],
        "completion_tokens": figures[1],
        "total_tokens": sum(figures),
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    chunks = [delta if "choices" in delta else chunk(delta) for delta in deltas]
    last = {**chunk({}), "choices": [], "usage": usage}
    return [chunk({"role": "assistant", "content": ""}), *chunks, chunk({}, finish), last, DONE]


def texts(*pieces: str, key: str = "content") -> list[dict[str, Any]]:
    return [{key: piece} for piece in pieces]


def call(number: int, *arguments: str, name: str = "get_weather") -> list[dict[str, Any]]:
    """The deltas of one call, its name and id in a delta of their own."""
    function = {"name": name, "arguments": ""}
    id_ = f"call_{number:02d}AbCdEfGhIjKlMnOpQrSt"
    first = {"index": number - 1, "id": id_, "type": "function", "function": function}
    rest = [{"index": number - 1, "function": {"arguments": text}} for text in arguments]
    return [{"tool_calls": [entry]} for entry in (first, *rest)]


def _token(text: str) -> dict[str, Any]:
    content = [{"token": text, "logprob": -0.1, "bytes": list(text.encode()), "top_logprobs": []}]
    return chunk({"content": text}, logprobs={"content": content})


def _details(*thoughts: tuple[int, str]) -> list[dict[str, Any]]:
    return [{"reasoning_details": [{"type": "reasoning.text", "index": at, "text": text}]} for at, text in thoughts]


def _interleaved() -> list[dict[str, Any]]:
    paris, rome = call(1, '{"city":', '"Paris"}'), call(2, '{"city":', '"Rome"}')
    return [delta for pair in zip(paris, rome, strict=True) for delta in pair]


_TOOLS: dict[str, Any] = {"tools": [WEATHER]}
_CUSTOM: dict[str, Any] = {
    "tools": [{"type": "custom", "name": "run_sql", "description": "Runs SQL", "format": {"type": "text"}}]
}

SCRIPTS = {
    "text": Script(stream(texts("Hello", " there", "."), "stop", (9, 3))),
    "slow_start": Script(stream(texts("Hello."), "stop", (9, 2))),
    "refusal": Script(stream(texts("I can", "not help.", key="refusal"), "stop", (9, 4))),
    "logprobs": Script(stream([_token("Hi"), _token("!")], "stop", (9, 2)), {"top_logprobs": 1}),
    "reasoning_text": Script(
        stream([*texts("Think", "ing.", key="reasoning_content"), *texts("42")], "stop", (12, 9), 8),
        {"reasoning": {"effort": "low"}},
    ),
    "reasoning_summary": Script(
        stream([*_details((0, "**Plan**"), (0, " first."), (1, "Then act.")), *texts("42")], "stop", (12, 9), 8),
        {"reasoning": {"effort": "medium", "summary": "auto"}},
    ),
    "function_call": Script(stream(call(1, '{"ci', 'ty":"Paris"}'), "tool_calls", (40, 8)), _TOOLS),
    "parallel_function_calls": Script(
        stream([*call(1, '{"city":"Paris"}'), *call(2, '{"city":', '"Rome"}')], "tool_calls", (40, 16)), _TOOLS
    ),
    "interleaved_function_calls": Script(stream(_interleaved(), "tool_calls", (40, 16)), _TOOLS),
    "text_then_function_call": Script(
        stream([*texts("Let me look."), *call(1, '{"city":"Paris"}')], "tool_calls", (40, 12)), _TOOLS
    ),
    "custom_tool_call": Script(
        stream(call(1, '{"input":"select ', '1;"}', name="run_sql"), "tool_calls", (30, 6)), _CUSTOM
    ),
    "incomplete_max_output_tokens": Script(
        stream(texts("Once upon", " a"), "length", (9, 16)), {"max_output_tokens": 16}
    ),
    "incomplete_content_filter": Script(stream(texts("So"), "content_filter", (9, 1))),
    "failed_midstream": Script([chunk({"role": "assistant", "content": ""}), chunk({"content": "Half a sen"})]),
}
"""By the name of the golden stream."""


def folded(chunks: list[Any]) -> dict[str, Any]:
    """The plain reply that says the same as these chunks."""
    message: dict[str, Any] = {"role": "assistant"}
    calls: dict[int, dict[str, Any]] = {}
    tokens: list[Any] = []
    whole: dict[str, Any] = {}
    for payload in chunks:
        if payload == DONE:
            continue
        whole |= {key: value for key, value in payload.items() if key != "choices"}
        for choice in payload["choices"]:
            finish = choice["finish_reason"]
            tokens += (choice["logprobs"] or {"content": []})["content"]
            for key, value in choice["delta"].items():
                if key == "tool_calls":
                    _fold(calls, value)
                elif key != "role":
                    message[key] = message.get(key, type(value)()) + value
    message["tool_calls"] = list(calls.values())
    logprobs = {"content": tokens} if tokens else None
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}
    return {**whole, "object": "chat.completion", "choices": [choice]}


def _fold(calls: dict[int, dict[str, Any]], entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        known = calls.setdefault(entry["index"], {**entry, "function": {**entry["function"], "arguments": ""}})
        known["function"]["arguments"] += entry["function"]["arguments"]
