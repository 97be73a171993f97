"""What becomes of an upstream's stream that ends at some byte, worked out in process, without sockets.

``python -m tests.replay.cuts FOLDER`` writes what clients would read, one file an outcome, and the golden streams, for
check_node.mjs.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from proxy import codec, sse
from proxy.errors import StatecarError, UpstreamError
from proxy.translate.response import skeleton
from proxy.translate.stream import ResponseStream
from proxy.turn.round import Answer
from proxy.upstream.failure import Timeouts
from proxy.upstream.reply import Reply
from tests.replay.recordings import load
from tests.upstream.reading import batches

T = TypeVar("T")

SHAPES = (
    "vllm/tool_after_reasoning_and_text_stream",
    "vllm/tool_auto_two_calls_stream",
    "vllm/tool_cut_by_length_stream",
    "vllm/error_bad_schema_stream",
    "llamacpp/reasoning_then_empty_stream",
    "llamacpp/unicode_stream",
    "llamacpp/tool_unknown_name_stream",
    "llamacpp/empty_output_stream",
    "transformers/length_stream",
    "transformers/tool_after_reasoning_stream",
    "transformers/tool_broken_json_stream",
)
"""One recording of every shape of stream."""

GOLDEN = Path(__file__).parents[1] / "golden"

ENDS = {"ended": None, "broken off": httpx.ReadError("reset by peer")}


@dataclass(frozen=True)
class Cut:
    """A stream that comes in these pieces and then ends, or fails with ``end``."""

    pieces: tuple[bytes, ...]
    end: Exception | None = None

    def reply(self) -> Reply:
        """It as the answer to one call of the upstream."""
        headers = {"content-type": "text/event-stream"}
        return Reply(httpx.Response(200, headers=headers, stream=_Body(self.pieces, self.end)), _PATIENT, stream=True)

    def read(self) -> tuple[Any, ...]:
        """What can be read of it: equal for cuts that differ in no more than what an error quotes."""
        return _run(self._read())

    def answer(self) -> list[dict[str, Any]] | StatecarError:
        """The events that a client gets, to the terminal one; the error if none has gone out yet (wire §2.6)."""
        return asyncio.run(self._answer())

    async def _read(self) -> tuple[Any, ...]:
        reply, count, last, error = self.reply(), 0, None, None
        try:
            async for batch in batches(reply):
                count, last = count + len(batch), batch[-1]
        except UpstreamError as exc:
            error = exc.status, exc.code, exc.message[:40]
        return count, codec.dumps(last), error, reply.ended

    async def _answer(self) -> list[dict[str, Any]] | StatecarError:
        reply, stream = self.reply(), _stream()
        events: list[dict[str, Any]] = []
        try:
            answer = Answer(reply, stream)
            while batch := await answer.read():
                events += batch
            events += stream.finish(_NOW, done=reply.ended)
        except StatecarError as exc:
            if not stream.started:
                return exc
            stream.fail(exc)
        return [*events, stream.end()]


@functools.cache
def cuts(name: str) -> tuple[list[Cut], dict[str, list[int]]]:
    """A recorded stream cut after every byte, from none to all: one cut for everything that can be read of it, and for
    each way of ending the place therein of what is read at each byte.
    """
    body = load(name).body
    known: dict[tuple[Any, ...], int] = {}
    found: list[Cut] = []
    places: dict[str, list[int]] = {how: [] for how in ENDS}
    for at, (how, end) in itertools.product(range(len(body) + 1), ENDS.items()):
        cut = Cut((body[:at],) if at else (), end)
        read = cut.read()
        if read not in known:
            known[read] = len(found)
            found.append(cut)
        places[how].append(known[read])
    return found, places


class _Body(httpx.AsyncByteStream):
    def __init__(self, pieces: Iterable[bytes], end: Exception | None) -> None:
        self._pieces, self._end = pieces, end

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        if self._end:
            raise self._end


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    raise AssertionError("it waits")


def _stream() -> ResponseStream:
    items, calls = itertools.count(1), itertools.count(1)
    response = skeleton({"model": "asked"}, "resp_1", _NOW)
    return ResponseStream(response, lambda type_: f"{type_}_{next(items)}", lambda: f"call_{next(calls)}")


def framed(name: str) -> list[bytes]:
    """The outcomes of the cuts of a recording as the bytes that a client reads."""
    return [_framed(events) for events in map(Cut.answer, cuts(name)[0]) if isinstance(events, list)]


def framed_once(name: str) -> list[bytes]:
    """Those of them that differ in more than in how many deltas follow each other."""
    outcomes: dict[tuple[str, ...], bytes] = {}
    for events in map(Cut.answer, cuts(name)[0]):
        if isinstance(events, list):
            order = tuple(type_ for type_, _ in itertools.groupby(event["type"] for event in events))
            outcomes.setdefault(order, _framed(events))
    return list(outcomes.values())


def _framed(events: list[dict[str, Any]]) -> bytes:
    return b"".join(map(sse.encode, events)) + sse.DONE


_NOW = 1_800_000_000
_PATIENT = Timeouts(None, None, None)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in SHAPES:
        for number, body in enumerate(framed(name)):
            (folder / f"{name.replace('/', '-')}-{number}.sse").write_bytes(body)
    for path in GOLDEN.glob("*.jsonl"):
        if path.stem != "cancelled":  # which a client that waits for an answer does not see
            frames = [sse.encode(codec.loads(line)) for line in path.read_bytes().splitlines()]
            (folder / f"golden-{path.stem}.sse").write_bytes(b"".join([*frames, sse.DONE]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
