"""The pieces of work that a turn is made of and that need no socket: timed by ``micro``, counted by ``instructions``
and by ``tests/budgets``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from proxy import codec, ids, sse
from proxy.chunks import Repeats
from proxy.state import Draft, Past
from proxy.state.past import decode
from proxy.state.records import encode as record_of
from proxy.translate.compaction import compacted
from proxy.translate.dialects import Dialect
from proxy.translate.items import Event
from proxy.translate.request import to_chat
from proxy.translate.response import shorten, skeleton
from proxy.translate.sealed import opened
from proxy.translate.stream import ResponseStream
from proxy.translate.tools import plan
from proxy.wire import create_response

NOW = 1_800_000_000
QUESTION = "Summarise the three most important points of the meeting and list the open questions. " * 6
TOOL = {
    "type": "function",
    "name": "search",
    "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
    "strict": True,
}
REQUEST = {
    "model": "plain",
    "instructions": "You are a careful assistant. Answer in short sentences. " * 10,
    "input": QUESTION,
    "tools": [TOOL],
    "metadata": {"trace": "0123456789abcdef"},
    "temperature": 0.7,
    "stream": True,
}


@dataclass(frozen=True)
class Piece:
    """A piece of work. ``unit``: what there are N of; ``make``: N to something that does N units each time."""

    name: str
    unit: str
    make: Callable[[int], Callable[[], object]]
    sizes: tuple[int, ...] = (200,)
    """How many units are timed at once."""


def text(number: int) -> dict[str, Any]:
    """The delta of a token of the answer."""
    return {"content": f" token{number:04}"}


def thought(number: int) -> dict[str, Any]:
    """The delta of a token of a thought."""
    return {"reasoning_content": f" token{number:04}"}


def argument(number: int) -> dict[str, Any]:
    """The delta of a token of a call's arguments, the first of which names the call."""
    if number:
        return {"tool_calls": [{"index": 0, "function": {"arguments": f"token{number:04}"}}]}
    function = {"name": "search", "arguments": '{"q":"'}
    return {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    """A chunk as vLLM sends it."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason, "token_ids": None}
    return {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": NOW,
        "model": "plain",
        "choices": [choice],
    }


def framed(*chunks: dict[str, Any]) -> bytes:
    """Chunks as an upstream's event stream."""
    return b"".join(b"data: %b\n\n" % codec.dumps(each) for each in chunks)


def history(items: int) -> list[bytes]:
    """Entries of a log: questions and answers in turn, 500 bytes each."""
    return list(itertools.islice(map(codec.dumps, _talk(itertools.count(1))), items))


def _talk(numbers: Iterator[int]) -> Iterator[dict[str, Any]]:
    for n in numbers:
        role, kind = ("user", "input_text") if n % 2 else ("assistant", "output_text")
        part = {"type": kind, "text": QUESTION[:400], **({} if n % 2 else {"annotations": []})}
        message = {"type": "message", "role": role, "content": [part], "id": f"msg_{n:048x}"}
        yield message if n % 2 else message | {"status": "completed"}


def history_of_calls(items: int) -> list[bytes]:
    """Entries of a log after a question: calls and their outputs in turn, as agents make them."""
    entries: list[dict[str, Any]] = []
    for n in range(1, items, 2):
        call = {"call_id": f"call_{n}", "status": "completed"}
        arguments = {"name": "search", "arguments": '{"q":"the minutes of the meeting"}'}
        entries.append({"type": "function_call", "id": f"fc_{n:048x}", **call, **arguments})
        entries.append({"type": "function_call_output", "id": f"fco_{n:048x}", **call, "output": QUESTION[:400]})
    return [*history(items % 2), *map(codec.dumps, entries)]


def _stream() -> ResponseStream:
    items = itertools.count(1)
    request = create_response(REQUEST)
    return ResponseStream(
        skeleton(request, "resp_" + 48 * "0", NOW),
        lambda type_: f"{ids.PREFIXES[type_]}_{next(items):048x}",
        lambda: f"call_{next(items)}",
        tools=plan(request, [], Dialect()),
    )


def _translated(delta: Callable[[int], dict[str, Any]]) -> Callable[[int], Callable[[], object]]:
    def make(count: int) -> Callable[[], object]:
        chunks = [chunk(delta(n)) for n in range(count)]

        def run() -> ResponseStream:
            stream = _stream()
            stream.start()
            for each in chunks:
                stream.feed(each)
            return stream

        return run

    return make


def _known(count: int) -> Callable[[], object]:
    first, *payloads = (codec.dumps(chunk(text(n))) for n in range(count + 1))

    def run() -> list[Event]:
        stream, repeats, opening = _stream(), Repeats(), codec.loads(first)
        repeats.learn(first, opening)
        texts, _ = repeats.read(iter(payloads))
        assert texts
        return stream.feed_all([opening, texts])

    return run


def _decoded(count: int) -> Callable[[], object]:
    data = framed(*(chunk(text(n)) for n in range(count)))
    return lambda: sse.Decoder().feed(data)


def _encoded(count: int) -> Callable[[], object]:
    stream = _stream()
    stream.start()
    events = [event for n in range(count + 1) for event in stream.feed(chunk(text(n)))][-count:]
    return lambda: b"".join(map(sse.encode, events))


def _rebuilt(entries_of: Callable[[int], list[bytes]]) -> Callable[[int], Callable[[], object]]:
    def make(count: int) -> Callable[[], object]:
        entries, request, dialect = entries_of(count), create_response(REQUEST | {"stream": False}), Dialect()

        def run() -> bytes:
            items = [*decode(entries), *request["input"]]
            sent = opened(compacted(items, lambda given: None), lambda given: None)
            return codec.dumps(to_chat(request, sent, plan(request, sent, dialect), dialect, stream=False))

        return run

    return make


def _repeated(once: Callable[[], object]) -> Callable[[int], Callable[[], object]]:
    def make(count: int) -> Callable[[], object]:
        def run() -> None:
            for _ in range(count):
                once()

        return run

    return make


def _checked() -> object:
    return create_response(codec.loads(_BODY))


def _checked_items(count: int) -> Callable[[], object]:
    body = codec.dumps(REQUEST | {"input": [codec.loads(entry) for entry in history(count)]})
    return lambda: create_response(codec.loads(body))


def _draft() -> Draft:
    minter = ids.Minter(16 * "0")
    items = [codec.loads(entry) for entry in history(2)]
    stream = _stream()
    for each in (chunk(text(0)), chunk({}, "stop"), chunk({}) | {"choices": [], "usage": {"prompt_tokens": 9}}):
        stream.feed(each)
    stream.finish(NOW, done=True)
    return Draft(
        id=minter.own("resp"),
        tenant=32 * "0",
        status="completed",
        model="plain",
        created_at=NOW,
        body=shorten(stream.response),
        input=items[:1],
        output=items[1:],
        past=Past.none(16 * "0"),
        append=True,
        minter=minter,
    )


_BODY = codec.dumps(REQUEST)
_DRAFT = _draft()
_CHECKED = create_response(REQUEST)


def _recorded() -> object:
    return record_of(_DRAFT), list(map(codec.dumps, [*_DRAFT.input, *_DRAFT.output]))


def _skeleton() -> object:
    return codec.dumps(skeleton(_CHECKED, "resp_" + 48 * "0", NOW))


PIECES = [
    Piece("translate text", "token", _translated(text)),
    Piece("read and translate repetitions", "token", _known),
    Piece("translate thought", "token", _translated(thought)),
    Piece("translate call arguments", "token", _translated(argument)),
    Piece("decode SSE", "chunk", _decoded),
    Piece("encode SSE", "event", _encoded),
    Piece("rebuild history", "item", _rebuilt(history), (10, 100, 1000)),
    Piece("rebuild history of calls", "item", _rebuilt(history_of_calls), (100,)),
    Piece("check items", "item", _checked_items),
    Piece("check request", "request", _repeated(_checked), (20,)),
    Piece("write record", "request", _repeated(_recorded), (20,)),
    Piece("write snapshot", "request", _repeated(_skeleton), (20,)),
]
