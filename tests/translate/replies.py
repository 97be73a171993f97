"""Chat chunks as backends send them, what a ResponseStream makes of them, and what is expected of it.

An expectation is a story: the items that must come, each with its deltas, such as ``[thought("Hm"), said("H", "i")]``.
From a story follow both the exact events and the final output.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

from proxy.errors import StatecarError
from proxy.translate.response import skeleton
from proxy.translate.stream import ResponseStream
from tests.translate import rules

NOW = 1_800_000_000
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def chunk(delta: Any = None, finish: str | None = None, **rest: Any) -> dict[str, Any]:
    """A chunk of an OpenAI-like backend; ``rest`` replaces or adds top-level keys."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]} | rest


def texts(*pieces: str) -> list[dict[str, Any]]:
    return [chunk({"content": piece}) for piece in pieces]


def thoughts(*pieces: str, key: str = "reasoning_content") -> list[dict[str, Any]]:
    return [chunk({key: piece}) for piece in pieces]


def calls(*entries: Any) -> dict[str, Any]:
    """One chunk with these entries of ``tool_calls``."""
    return chunk({"tool_calls": list(entries)})


def entry(index: int | None = None, id: str | None = None, name: str | None = None, arguments: Any = None) -> Any:
    """One entry of ``tool_calls``; what is None is left out."""
    function = {"name": name, "arguments": arguments}
    whole = {"index": index, "id": id, "function": {k: v for k, v in function.items() if v is not None}}
    return {k: v for k, v in whole.items() if v is not None}


def plain(message: dict[str, Any], finish: str | None = "stop", **rest: Any) -> dict[str, Any]:
    """A whole reply that was not streamed."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "logprobs": None, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]} | rest


@dataclass
class Read:
    """All that came of a reply. ``story``: the output in the words of an expectation, without deltas."""

    stream: ResponseStream
    events: list[dict[str, Any]]

    @property
    def response(self) -> dict[str, Any]:
        return self.events[-1]["response"]

    @property
    def brief(self) -> list[str]:
        return [brief(event) for event in self.events]


def open_stream(request: dict[str, Any] | None = None, **options: Any) -> ResponseStream:
    """A stream whose ids count up: ``msg_1``, ``call_minted1``."""
    items, minted = itertools.count(1), itertools.count(1)
    response = skeleton({"model": "asked", **(request or {})}, "resp_1", NOW)
    return ResponseStream(
        response, lambda type_: f"{type_}_{next(items)}", lambda: f"call_minted{next(minted)}", **options
    )


def read(chunks: list[Any], request: dict[str, Any] | None = None, *, done: bool = True, **options: Any) -> Read:
    """The stream of a reply from its first event to its last, as a turn would pull it, every rule of §9 checked."""
    stream = open_stream(request, **options)
    events = stream.start()
    try:
        for one in chunks:
            events += stream.feed(one)
            if stream.failure:
                raise stream.failure
        events += stream.finish(NOW + 2, done=done)
    except StatecarError as exc:
        stream.fail(exc)
    events.append(stream.end())
    rules.check(events)
    return Read(stream, events)


# -- expectations


@dataclass(frozen=True)
class Told:
    """An item of a story."""

    type: str
    deltas: tuple[str, ...]
    name: str = ""
    id: str = ""
    status: str = "completed"
    namespace: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.deltas)

    @property
    def incomplete(self) -> Told:
        return replace(self, status="incomplete")


def said(*deltas: str) -> Told:
    return Told("message", deltas)


def refused(*deltas: str) -> Told:
    return Told("refusal", deltas)


def thought(*deltas: str) -> Told:
    return Told("reasoning", deltas)


def called(name: str, *deltas: str, id: str = "call_a") -> Told:
    return Told("function_call", deltas, name, id)


def used(name: str, *deltas: str, id: str = "call_a", namespace: str | None = None) -> Told:
    """A call of a custom tool."""
    return Told("custom_tool_call", deltas, name, id, namespace=namespace)


def events_of(story: list[Told], end: str = "completed") -> list[str]:
    """The exact events of items that come one after the other."""
    lines = ["created", "in_progress"]
    for at, told in enumerate(story):
        lines += [f"{at} {line}" for line in _LINES[told.type](told)]
    return [*lines, end]


def output_of(response: dict[str, Any]) -> list[Told]:
    """The output of a response as a story of whole texts."""
    return [_told(item) for item in response["output"]]


def whole(story: list[Told]) -> list[Told]:
    """A story whose items have one delta each, as ``output_of`` tells them."""
    return [replace(told, deltas=(told.text,)) for told in story]


def brief(event: dict[str, Any]) -> str:
    """An event in a few words: its output index, its name, and the text it carries."""
    words = [event["type"].removeprefix("response.")]
    if "output_index" in event:
        words.insert(0, str(event["output_index"]))
    if "item" in event:
        words.append(event["item"]["type"])
    for key in ("delta", "text", "refusal", "arguments", "input"):
        if key in event:
            words.append(event[key])
    return " ".join(words)


def _message(told: Told, name: str = "output_text") -> list[str]:
    deltas = [f"{name}.delta {delta}" for delta in told.deltas]
    middle = ["content_part.added", *deltas, f"{name}.done {told.text}", "content_part.done"]
    return ["output_item.added message", *middle, "output_item.done message"]


def _reasoning(told: Told) -> list[str]:
    return [line.replace(" message", " reasoning") for line in _message(told, "reasoning_text")]


def _call(told: Told, name: str = "function_call_arguments") -> list[str]:
    deltas = [f"{name}.delta {delta}" for delta in told.deltas]
    middle = [*deltas, f"{name}.done {told.text}"]
    return [f"output_item.added {told.type}", *middle, f"output_item.done {told.type}"]


_LINES = {
    "message": _message,
    "refusal": lambda told: _message(told, "refusal"),
    "reasoning": _reasoning,
    "function_call": _call,
    "custom_tool_call": lambda told: _call(told, "custom_tool_call_input"),
}


def _told(item: dict[str, Any]) -> Told:
    if text := {"function_call": "arguments", "custom_tool_call": "input"}.get(item["type"]):
        return Told(item["type"], (item[text],), item["name"], item["call_id"], item["status"], item.get("namespace"))
    (part,) = item["content"]
    type_ = "refusal" if part["type"] == "refusal" else item["type"]
    return Told(type_, (part.get("text", part.get("refusal")),), status=item["status"])
