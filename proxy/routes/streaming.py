"""A turn on its way out: as one JSON answer, or as server-sent events with keepalives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from math import inf
from time import perf_counter
from typing import Any

from starlette.types import Receive, Scope, Send

from proxy import sse
from proxy.errors import RunLost, StoreUnavailable
from proxy.routes.edge import ClientGone, answer, attended, beside, facts
from proxy.routes.open import OpenRequests
from proxy.runs import ENDS, Detached, Runner
from proxy.translate.items import Event
from proxy.turn import Turn
from proxy.waits import Waits, begin

log = logging.getLogger("statecar.edge")

_BEGUN = ("model", "response", "upstream", "first_event_ms")
"""What a request tells of its turn when it leaves it."""

_TERMINAL = ("response.completed", "response.incomplete", "response.failed")
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True)
class Pace:
    """Seconds of silence before a keepalive, and before a stream begins without its upstream; 0 is never.

    ``stall``: seconds a client may take nothing of what is sent to it, before it counts as gone.
    """

    keepalive: float = 15.0
    early: float = 25.0
    stall: float = 300.0
    comments: bool = True


class JsonReply:
    """An ASGI answer: the last event's response. Errors before it are raised, so that they keep their HTTP status."""

    def __init__(self, turn: Turn, requests: OpenRequests, waits: Waits) -> None:
        self._turn, self._requests, self._waits = turn, requests, waits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        facts(scope)["turn"] = self._turn.facts
        last: Event | None = None
        try:
            with self._requests.ended_by(self._turn.stop):
                async with aclosing(self._turn.run()) as batches, attended(receive):
                    async for events in batches:
                        last = events[-1] if events else last
            assert last is not None  # a turn ends with its terminal event, or raises
            whole = answer(last["response"], headers=self._turn.headers)
            began = perf_counter()
            await whole(scope, receive, send)
            self._waits.client += perf_counter() - began
        except ClientGone:
            facts(scope)["left"] = True
        finally:
            self._turn.facts |= self._waits.told()


class ValueReply:
    """An ASGI answer: the JSON value, and the headers, that some work gives; a client that leaves ends the work."""

    def __init__(self, work: Callable[[], Awaitable[tuple[Any, dict[str, str]]]]) -> None:
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with attended(receive):
                value, headers = await self._work()
        except ClientGone:
            facts(scope)["left"] = True
            return
        await answer(value, headers=headers)(scope, receive, send)


class _EventStream:
    """Server-sent events on their way out: one writer at a time, silences filled, a client that stalls given up."""

    def __init__(self, requests: OpenRequests, pace: Pace, *, done: bool) -> None:
        """``done``: whether ``data: [DONE]`` ends the stream (wire §9.1)."""
        self._requests, self._pace, self._done = requests, pace, done
        self._headers: dict[str, str] = {}
        self._sending = False  # what the turn tells
        self._filling: asyncio.Lock | None = None  # held by the clock while it sends, and the turn waits
        self._opened = False
        self._clock = asyncio.get_running_loop().time
        self._last = self._clock()

    async def _early(self) -> bytes:
        """Frames to open the stream with when nothing has come for long; none when they come by themselves."""
        return b""

    async def _between(self) -> bytes:
        """What fills a silence; nothing when that comes by itself."""
        return sse.KEEPALIVE if self._pace.comments else b""

    # -- the clock's side (Ticking)

    def due_in(self) -> float | None:
        """The stream may open, or its client stall, while the watcher sleeps: it looks again now and then."""
        pause = min(self._pace.keepalive or inf, self._pace.stall or inf)
        if self._sending:
            due = self._last + (self._pace.stall or inf)
        else:
            due = self._due()
        pause = min(pause, max(0.0, due - self._clock()))
        return pause if pause < inf else None

    def _due(self) -> float:
        """When the silence is to be filled."""
        wait = self._pace.keepalive if self._opened else self._pace.early
        return self._last + wait if wait else inf

    async def tick(self) -> None:
        """Fills a silence. While something is being sent there is none, and events must keep their order."""
        if self._sending:
            if self._pace.stall and self._clock() - self._last >= self._pace.stall:
                raise ClientGone  # it is there and takes nothing: its turn must not hold a conversation for ever
            return
        if self._clock() < self._due():
            return
        if not self._opened:
            self._last = self._clock() - self._pace.early + 1  # if it is still at its history: look again soon
            if frames := await self._early():
                await self._fill(frames)
            return
        self._last = self._clock()
        if frame := await self._between():
            await self._fill(frame)

    async def _fill(self, data: bytes) -> None:
        """Sends for the clock, which cannot watch over itself meanwhile."""
        if self._sending:  # by now: then there is no silence
            return
        self._filling = asyncio.Lock()
        try:
            async with asyncio.timeout(self._pace.stall or None), self._filling:
                await self._open()
                self._last = self._clock()
                await self._go_on({"type": "http.response.body", "body": data, "more_body": True})
        except TimeoutError:
            raise ClientGone from None
        finally:
            self._filling = None

    # -- sending

    async def _frames(self, frames: bytes, *, more: bool = True) -> None:
        if self._filling:
            async with self._filling:
                pass  # the clock has begun to send
        self._sending = True  # no lock: it would be four calls for every token
        try:
            if not self._opened:
                await self._open()
            self._last = self._clock()
            body = frames if more or not self._done else frames + sse.DONE
            await self._go_on({"type": "http.response.body", "body": body, "more_body": more})
        finally:
            self._sending = False

    async def _open(self) -> None:
        """The head of the answer, if it is not sent yet."""
        if not self._opened:
            self._opened = self._facts["streamed"] = True
            self._requests.streams(1)
            told = [(name.encode(), value.encode("latin-1")) for name, value in self._headers.items()]
            self._last = self._clock()
            await self._send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *told]})

    def _begin(self, scope: Scope, send: Send) -> None:
        self._send, self._facts = send, facts(scope)
        self._go_on: Send = scope.get("statecar.send", send)  # all between looks at heads alone

    def _close(self) -> None:
        if self._opened:
            self._requests.streams(-1)


class SseReply(_EventStream):
    """An ASGI answer: a turn's events, framed as they come. The status line waits for the first of them (wire §2.6)."""

    def __init__(self, turn: Turn, requests: OpenRequests, waits: Waits, pace: Pace, *, done: bool) -> None:
        super().__init__(requests, pace, done=done)
        self._turn, self._waits = turn, waits
        self._headers = turn.headers
        self._answered = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._begin(scope, send)
        self._facts["turn"] = self._turn.facts
        try:
            with self._requests.ended_by(self._turn.stop):
                await beside(receive, self, self._tell())
        except ClientGone:
            self._facts["left"] = True
        finally:
            self._close()
            self._turn.facts |= self._waits.told()

    async def _tell(self) -> None:
        waits = begin(self._waits)
        async with aclosing(self._turn.run()) as batches:
            async for events in batches:
                if not events:
                    continue
                frames = sse.encode(events[0]) if len(events) == 1 else b"".join(map(sse.encode, events))
                began = perf_counter()
                if not self._answered:
                    self._answered = True
                    self._turn.facts["first_event_ms"] = round((began - waits.began) * 1000, 1)
                try:
                    await self._frames(frames, more=events[-1]["type"] not in _TERMINAL)
                finally:
                    waits.client += perf_counter() - began

    async def _early(self) -> bytes:
        return b"".join(map(sse.encode, self._turn.begin()))

    async def _between(self) -> bytes:
        event = self._turn.keepalive()
        return sse.encode(event) if event else await super()._between()


class DetachedReply(_EventStream):
    """An ASGI answer: the same bytes, of a turn that is a run from its first event on (wire §3.1)."""

    def __init__(
        self,
        turn: Turn,
        runner: Runner,
        make: Callable[[], Detached],
        requests: OpenRequests,
        waits: Waits,
        pace: Pace,
        *,
        done: bool,
    ) -> None:
        """``make``: begins to make it; raises ShuttingDown."""
        super().__init__(requests, pace, done=done)
        self._turn, self._waits, self._runner, self._make = turn, waits, runner, make
        self._headers = turn.headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._begin(scope, send)
        self._detached = self._make()
        with attending(self._detached, self._facts):
            try:
                await beside(receive, self, self._tell())
            except RunLost as exc:
                log.warning("the events of a response cannot be read: %s", exc.message)
                if not self._opened:
                    raise StoreUnavailable from None
                raise ClientGone from None  # cut off without an end, which comes from another process (wire §9.1)
            finally:
                self._close()
            await self._detached.ended()  # its facts are whole by then

    async def _tell(self) -> None:
        async with aclosing(self._runner.told(self._detached)) as batches:
            async for frames in batches:
                if not self._opened:
                    now = perf_counter()
                    self._turn.facts["first_event_ms"] = round((now - self._waits.began) * 1000, 1)
                await self._frames(b"".join(frames), more=not frames[-1].startswith(ENDS))

    async def _early(self) -> bytes:
        await self._detached.open()
        return b""

    async def _between(self) -> bytes:
        return b"" if await self._detached.keepalive() else await super()._between()


class DetachedJsonReply:
    """An ASGI answer: the response that a detached turn ends with; errors instead of it are raised."""

    def __init__(
        self, turn: Turn, make: Callable[[], Detached], elsewhere: Callable[[str, str], Awaitable[dict[str, Any]]]
    ) -> None:
        """``elsewhere``: waits for a response, by its id and tenant, that another process has taken up."""
        self._turn, self._make, self._elsewhere = turn, make, elsewhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        detached = self._make()
        with attending(detached, facts(scope)):
            async with attended(receive):
                try:
                    response = await detached.ended_with()
                except RunLost:
                    response = await self._elsewhere(detached.run.id, detached.run.tenant)
            await answer(response, headers=self._turn.headers)(scope, receive, send)


@contextmanager
def attending(detached: Detached, noted: dict[str, Any]) -> Iterator[None]:
    """A request that waits for a detached turn. One that leaves before the end leaves the facts to the run."""
    turn = detached.turn
    noted["turn"] = turn.facts
    try:
        yield
    except BaseException as exc:
        detached.leave()
        if not turn.attended and detached.entered:
            noted["turn"] = {name: turn.facts[name] for name in _BEGUN if name in turn.facts}
        if not isinstance(exc, ClientGone):
            raise
        noted["left"] = True


class RunReply(_EventStream):
    """An ASGI answer: the frames of a run's events. Who leaves changes nothing for the run (wire §3.2)."""

    def __init__(
        self,
        batches: AsyncGenerator[list[bytes], None],
        requests: OpenRequests,
        pace: Pace,
        *,
        done: bool,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(requests, pace, done=done)
        self._batches, self._headers = batches, headers or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._begin(scope, send)
        try:
            await beside(receive, self, self._tell())
        except ClientGone:
            self._facts["left"] = True
        except RunLost as exc:  # without an end: the reader may go on where it stopped
            log.warning("the events of a response cannot be read: %s", exc.message)
        finally:
            self._close()

    async def _tell(self) -> None:
        async with aclosing(self._batches) as batches:
            await self._frames(b"")
            async for frames in batches:
                await self._frames(b"".join(frames))
            await self._frames(b"", more=False)
