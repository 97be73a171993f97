"""The two directions of a WebSocket: a client's frames until their turn comes, and what is told to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from math import inf
from sys import getsizeof
from typing import Any

from starlette.types import Message, Receive, Send

from proxy import codec, sse
from proxy.errors import StatecarError
from proxy.routes.edge import ClientGone
from proxy.routes.streaming import Pace
from proxy.translate.items import Event

_ERROR = b"event: error\n"

MOST = 64
"""Frames of a connection that may wait."""


class Frames:
    """What a client has sent and nobody has answered. ``limit``: bytes of memory that may wait.

    The client is listened to all the time, or its leaving and its pongs would not be heard.
    """

    def __init__(self, receive: Receive, limit: int, until: float) -> None:
        """``until``: by the loop's clock, when nothing more is to be begun."""
        self._receive, self._limit, self._until = receive, limit, until
        self._waiting: deque[str | bytes] = deque()
        self._size = 0
        self._news = asyncio.Event()
        self._ended = False
        self.flooded = self.expired = False

    def end(self) -> None:
        """Whatever waits is not answered any more."""
        self._ended = True
        self._news.set()

    async def hear(self) -> Message:
        """The next message of the client, a frame of which is kept; its leaving where more wait than may."""
        message = await self._receive()
        if message["type"] == "websocket.receive":
            text = message.get("text")
            frame: str | bytes = message["bytes"] if text is None else text
            size = getsizeof(frame)
            self.flooded = len(self._waiting) >= MOST or (self._size > 0 and self._size + size > self._limit)
            if self.flooded:
                return {"type": "websocket.disconnect"}
            self._waiting.append(frame)
            self._size += size
            self._news.set()
        return message

    async def next(self) -> str | bytes | None:
        """The frame that waits longest; None when no more are to be answered."""
        try:
            async with asyncio.timeout_at(self._until):
                while not self._waiting and not self._ended:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            self.expired = True
        self.expired = self.expired or asyncio.get_running_loop().time() >= self._until
        if self._ended or self.expired:
            return None
        frame = self._waiting.popleft()
        self._size -= getsizeof(frame)
        return frame


class Telling:
    """What goes out: one writer at a time, silences filled, a client that stalls given up.

    ``lane``: what the frame at work named, which its events carry. ``begun``: something has been told of it.
    """

    def __init__(self, send: Send, pace: Pace) -> None:
        self._send, self._pace = send, pace
        self._sending = asyncio.Lock()
        self._clock = asyncio.get_running_loop().time
        self._last = self._clock()
        self._silence: Callable[[], Awaitable[list[Event]]] | None = None
        self.begun = False
        self.lane: str | None = None

    def begin(self, silence: Callable[[], Awaitable[list[Event]]] | None) -> None:
        """The silences to come are filled with what this gives, which may be nothing; not at all for None."""
        self._silence, self.begun, self._last = silence, False, self._clock()

    async def events(self, events: list[Event]) -> None:
        """Sends them, a frame each. Raises ClientGone."""
        await self._texts(map(self._text, events))

    async def logged(self, frames: list[bytes]) -> None:
        """Sends events of a run, given as server-sent events. Raises ClientGone."""
        await self._texts(map(self._text_of_logged, frames))

    async def error(self, exc: StatecarError) -> None:
        """Sends what a request is refused with. Raises ClientGone."""
        await self.events([error_frame(exc)])

    def _text(self, event: Event) -> str:
        told = _nested(event) if event["type"] == "error" else event
        if self.lane is not None:
            told = {**told, "stream_id": self.lane}
        return codec.dumps(told).decode()

    def _text_of_logged(self, frame: bytes) -> str:
        if self.lane is None and not frame.startswith(_ERROR):
            return sse.data_of(frame).decode()
        return self._text(sse.decode(frame))

    async def _texts(self, texts: Iterable[str]) -> None:
        async with self._sending:
            self.begun = True
            for text in texts:
                self._last = self._clock()
                try:
                    await self._send({"type": "websocket.send", "text": text})
                except OSError:
                    raise ClientGone from None

    # -- the clock's side (Ticking)

    def due_in(self) -> float | None:
        """A turn may begin, or the client stall, while the watcher sleeps: it looks again now and then."""
        pace = self._pace
        pause = min(pace.keepalive or inf, pace.stall or inf)
        due = self._last + (pace.stall or inf) if self._sending.locked() else self._due()
        pause = min(pause, max(0.0, due - self._clock()))
        return pause if pause < inf else None

    def _due(self) -> float:
        """When the silence is to be filled. Pings keep the connection; this keeps clients that count events."""
        wait = self._pace.keepalive if self.begun else self._pace.early
        return self._last + wait if self._silence and wait else inf

    async def tick(self) -> None:
        if self._sending.locked():
            if self._pace.stall and self._clock() - self._last >= self._pace.stall:
                raise ClientGone
            return
        if self._silence is None or self._clock() < self._due():
            return
        self._last = self._clock()
        if events := await self._silence():
            await self._fill(events)

    async def _fill(self, events: list[Event]) -> None:
        """Sends for the clock, which cannot watch over itself meanwhile."""
        try:
            async with asyncio.timeout(self._pace.stall or None):
                await self.events(events)
        except TimeoutError:
            raise ClientGone from None


def error_frame(exc: StatecarError) -> dict[str, Any]:
    """An error as a frame, whose code is never null (wire §13.7)."""
    error = {**exc.body()["error"], "code": exc.code or exc.type}
    if exc.headers:
        error["headers"] = exc.headers
    return {"type": "error", "status": exc.status, "error": error}


def _nested(event: Event) -> Event:
    """An error in mid-stream in the form of a frame; that of a stream of server-sent events is flat."""
    if "error" in event:
        return event
    error = {"message": event["message"], "type": "server_error", "param": None, "code": event["code"]}
    return {"type": "error", "status": 500, "error": error, "sequence_number": event["sequence_number"]}


def steering_refused(given: dict[str, Any]) -> Event:
    """The answer to a client that would change a response in the making (wire §13.2)."""
    error = {
        "type": "invalid_request_error",
        "code": "steering_not_supported",
        "message": "Steering is not supported by this server. Send the input with the next 'response.create'.",
    }
    steer = {"input": given.get("input"), "previous_response_id": given.get("previous_response_id")}
    return {"type": "response.steer.failed", "sequence_number": 0, "error": error, "steer": steer}
