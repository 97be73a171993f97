"""A turn on its way out: as one JSON answer, or as server-sent events with keepalives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from math import inf

from starlette.types import Receive, Scope, Send

from proxy import sse
from proxy.routes.edge import ClientGone, answer, attended, facts
from proxy.translate.items import Event
from proxy.turn import Turn

log = logging.getLogger("statecar.edge")

_TERMINAL = ("response.completed", "response.incomplete", "response.failed")
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
]


class OpenTurns:
    """The turns being answered by this process, so that it can end them before it ends."""

    def __init__(self) -> None:
        self._turns: set[Turn] = set()
        self._none = asyncio.Event()
        self._none.set()

    @contextmanager
    def counted(self, turn: Turn) -> Iterator[None]:
        self._turns.add(turn)
        self._none.clear()
        try:
            yield
        finally:
            self._turns.discard(turn)
            if not self._turns:
                self._none.set()

    async def none_open(self) -> None:
        """Returns when the last of them has ended."""
        await self._none.wait()

    def __len__(self) -> int:
        return len(self._turns)

    def stop(self) -> None:
        """Ends them all as failed: every stream gets its terminal event."""
        for turn in tuple(self._turns):
            turn.stop()


@dataclass(frozen=True)
class Pace:
    """Seconds of silence before a keepalive, and before a stream begins without its upstream; 0 is never."""

    keepalive: float = 15.0
    early: float = 25.0
    comments: bool = True


class JsonReply:
    """An ASGI answer: the last event's response. Errors before it are raised, so that they keep their HTTP status."""

    def __init__(self, turn: Turn, turns: OpenTurns) -> None:
        self._turn, self._turns = turn, turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        facts(scope)["turn"] = self._turn.facts
        last: Event | None = None
        try:
            with self._turns.counted(self._turn):
                async with aclosing(self._turn.run()) as batches, attended(receive):
                    async for events in batches:
                        last = events[-1] if events else last
        except ClientGone:
            facts(scope)["left"] = True
            return
        assert last is not None  # a turn ends with its terminal event, or raises
        await answer(last["response"], headers=self._turn.headers)(scope, receive, send)


class SseReply:
    """An ASGI answer: the events, framed as they come. The status line waits for the first of them (wire §2.6)."""

    def __init__(self, turn: Turn, turns: OpenTurns, pace: Pace, *, done: bool) -> None:
        """``done``: whether ``data: [DONE]`` ends the stream (wire §9.1)."""
        self._turn, self._turns, self._pace, self._done = turn, turns, pace, done
        self._sending = asyncio.Lock()
        self._opened = False
        self._clock = asyncio.get_running_loop().time
        self._last = self._clock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        facts(scope)["turn"] = self._turn.facts
        try:
            with self._turns.counted(self._turn):
                async with aclosing(self._turn.run()) as batches, attended(receive, self):
                    async for events in batches:
                        if events:
                            async with self._sending:
                                await self._write(events)
        except ClientGone:
            facts(scope)["left"] = True

    # -- the clock's side (Ticking)

    def due_in(self) -> float | None:
        """The stream may open while its watcher sleeps, which therefore looks again within a keepalive's time."""
        due = self._due()
        if not self._opened and self._pace.keepalive:
            due = min(due, self._clock() + self._pace.keepalive)
        return max(0.0, due - self._clock()) if due < inf else None

    def _due(self) -> float:
        """When the silence is to be filled."""
        wait = self._pace.keepalive if self._opened else self._pace.early
        return self._last + wait if wait else inf

    async def tick(self) -> None:
        """Fills a silence. Skipped while something is being sent: then there is none, and events keep their order."""
        if self._clock() < self._due():
            return
        if self._sending.locked():
            self._last = self._clock()
            return
        if not self._opened:
            if events := self._turn.begin():
                async with self._sending:
                    await self._write(events)
            else:  # still at its history: look again soon
                self._last = self._clock() - self._pace.early + 1
            return
        event = self._turn.keepalive()
        self._last = self._clock()
        if event or self._pace.comments:
            async with self._sending:
                await self._body(sse.encode(event) if event else sse.KEEPALIVE)

    # -- sending

    async def _write(self, events: list[Event]) -> None:
        ends = events[-1]["type"] in _TERMINAL
        frames = b"".join(map(sse.encode, events))
        await self._body(frames + sse.DONE if ends and self._done else frames, more=not ends)

    async def _body(self, data: bytes, *, more: bool = True) -> None:
        if not self._opened:
            self._opened = True
            told = [(name.encode(), value.encode("latin-1")) for name, value in self._turn.headers.items()]
            await self._send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *told]})
        self._last = self._clock()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
