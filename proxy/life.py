"""The end of a process: announced, then waited for, then carried out (architecture: processes that end)."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from starlette.types import Message, Send

from proxy.routes.open import OpenRequests

log = logging.getLogger("statecar")


@dataclass
class Life:
    """The end of a process. For ``delay`` seconds it says that it is about to end, and serves as before; then it takes
    nothing new, and open requests get ``grace`` seconds; then turns end as failed, never as a bare EOF.

    ``hurried_by``: the signals that cut the delay short. ``stopping``: it has been asked to end. ``until``: when the
    grace is over, 0 before it has begun.
    """

    delay: float
    grace: float
    requests: OpenRequests
    hurried_by: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)
    stopping: bool = False
    until: float = 0.0
    _delayed: asyncio.TimerHandle | None = None

    def watch_signals(self) -> None:
        """Takes SIGTERM and SIGINT before the server, which closes its listeners at once; only in a main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            served: Any = signal.getsignal(number)

            def on_signal(number: int, frame: FrameType | None, served: Any = served) -> None:
                end = functools.partial(served, number, None) if callable(served) else bool
                if loop.is_closed():
                    end()
                else:
                    loop.call_soon_threadsafe(self._asked_to_end, number, end)

            signal.signal(number, on_signal)

    def _asked_to_end(self, number: int, end: Callable[[], object]) -> None:
        """``end``: what the server does on that signal."""
        if not self.stopping:
            self.stopping = True
            self._delayed = asyncio.get_running_loop().call_later(self.delay, self._begin_end, end)
        elif self.until:
            end()
        elif self._delayed and number in self.hurried_by:
            self._delayed.cancel()
            self._begin_end(end)

    def _begin_end(self, end: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        self.until = loop.time() + self.grace
        self.requests.warn()
        loop.call_later(self.grace, self.requests.stop)
        end()

    def closing(self, send: Send) -> Send:
        """``send``, with answers that end their connection once the process is to end."""

        async def told(message: Message) -> None:
            if self.stopping and message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message["headers"] if name.lower() != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            await send(message)

        return told

    @property
    def left(self) -> float:
        """Seconds of the grace that are left."""
        return max(0.0, self.until - asyncio.get_running_loop().time())

    async def ended(self) -> None:
        """Waits a little for the requests that are being ended, so that their last write finds the store open."""
        try:
            async with asyncio.timeout(5):
                await self.requests.none_open()
        except TimeoutError:
            log.warning("%d requests did not end", len(self.requests))
