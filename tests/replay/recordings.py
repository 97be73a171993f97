"""The recordings under ``tests/scripts`` as values, and what they say when read as plainly as possible.

``heard`` is the second opinion: it knows nothing of items, events or of the code under test.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.backend import STREAM_END, Step, chunked, reply

SCRIPTS = Path(__file__).parents[1] / "scripts"
SERVERS = ("vllm", "vllm-plain", "llamacpp", "transformers")


@dataclass(frozen=True)
class Recording:
    """One request to a real server and its answer. ``chunks``: the body as its HTTP chunks; one if it had a length."""

    name: str
    request: dict[str, Any]
    status: int
    headers: tuple[str, ...]
    chunks: tuple[bytes, ...]
    chunked: bool

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def is_stream(self) -> bool:
        return any(line.startswith("content-type: text/event-stream") for line in self.headers)

    def steps(self) -> tuple[Step, ...]:
        """The answer for a scripted backend, cut as the server cut it."""
        if not self.chunked:
            return (reply(self.body, status=self.status, headers=self.headers),)
        head = reply(status=self.status, headers=(*self.headers, "transfer-encoding: chunked"), length=False)
        return (head, *map(chunked, self.chunks), STREAM_END)


@functools.cache
def load(name: str) -> Recording:
    """A recording by its name, such as ``vllm/text_stream``."""
    value = json.loads((SCRIPTS / f"{name}.json").read_text("utf-8"))
    answer = value["response"]
    pieces = answer["body"] if isinstance(answer["body"], list) else [answer["body"]]
    return Recording(
        name,
        value["request"],
        answer["status"],
        tuple(answer["headers"]),
        tuple(piece.encode() for piece in pieces),
        isinstance(answer["body"], list),
    )


@functools.cache
def chats() -> tuple[Recording, ...]:
    """Every recording of chat completions."""
    names = (f"{server}/{path.stem}" for server in SERVERS for path in sorted((SCRIPTS / server).glob("*.json")))
    return tuple(one for one in map(load, names) if one.request["path"] == "/v1/chat/completions")


def streams() -> list[Recording]:
    return [one for one in chats() if one.is_stream]


# -- what a recording says


@dataclass
class Heard:
    """A chat answer, its pieces joined. ``error``: what the server put in the place of a chunk."""

    thought: str = ""
    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    finish: str | None = None
    usage: tuple[int, int] = (0, 0)
    error: Any = None


def heard(recording: Recording) -> Heard:
    """What the server said in its first choice."""
    told = Heard()
    calls: dict[int, list[str]] = {}
    for chunk in _chunks(recording):
        if not isinstance(chunk, dict) or "error" in chunk:
            told.error = chunk["error"] if isinstance(chunk, dict) else chunk
            break
        if chunk.get("usage"):
            told.usage = chunk["usage"]["prompt_tokens"], chunk["usage"]["completion_tokens"]
        for choice in chunk["choices"]:
            if choice["index"] == 0:
                _hear(told, calls, choice)
    told.calls = tuple((name, arguments) for name, arguments in calls.values())
    return told


def _hear(told: Heard, calls: dict[int, list[str]], choice: dict[str, Any]) -> None:
    said = choice["delta"] if "delta" in choice else choice["message"]
    told.thought += said.get("reasoning_content") or said.get("reasoning") or ""
    told.text += said.get("content") or ""
    told.finish = choice.get("finish_reason") or told.finish
    for place, call in enumerate(said.get("tool_calls") or ()):
        name, arguments = call["function"].get("name"), call["function"].get("arguments") or ""
        written = calls.setdefault(call.get("index", place), ["", ""])
        written[0] = written[0] or name
        written[1] += arguments


def _chunks(recording: Recording) -> list[Any]:
    """The chunks; the text of one that is no JSON."""
    text = recording.body.decode()
    if not recording.is_stream:
        return [json.loads(text)]
    payloads = [frame.removeprefix("data: ") for frame in text.removesuffix("\n\n").split("\n\n")]
    return [_value(payload) for payload in payloads if payload != "[DONE]"]


def _value(payload: str) -> Any:
    try:
        return json.loads(payload)
    except ValueError:
        return payload
