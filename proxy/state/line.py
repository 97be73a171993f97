"""A connection that many share: what is sent over it does not wait for the replies before it, and no task waits for its
own. A run's append costs a third of what it does on a connection of the pool so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import hiredis

from proxy.state.pool import Lean

_GRACE = 0.1
"""Seconds after the limit for what has come while this process was late itself."""

_NOTHING = object()
"""What the parser says when no reply is whole."""

Replied = Callable[[Any], object]
"""Takes a reply; None when it is an error, or the line broke before it came. It raises nothing."""


class Line(asyncio.Protocol):
    """Takes over a connection of redis-py's that has just been made. Replies come in the order of the commands."""

    def __init__(self, connection: Lean, limit: float, heard: Callable[[str, float, float], object]) -> None:
        """``limit``: seconds to wait for a reply; without one by then the line is given up. ``heard``: told of every
        reply: what it is to, when that was sent by ``perf_counter``, and the seconds it took.
        """
        self._loop = asyncio.get_running_loop()
        self._connection, self._limit, self._heard = connection, limit, heard
        self._transport = connection.transport
        self._parser = hiredis.Reader(notEnoughData=_NOTHING)
        self._due: deque[tuple[str, float, Replied]] = deque()
        self._clock: asyncio.TimerHandle | None = None
        self.is_open = True
        self._transport.set_protocol(self)

    def send(self, name: str, command: tuple[Any, ...], replied: Replied) -> None:
        """Sends a command; ``name`` is for ``heard``. What is sent in one turn of the event loop leaves in one write on
        uvloop, whoever sent it.
        """
        self._due.append((name, perf_counter(), replied))
        if self._clock is None:  # one for all: a timer for each command would cost as much as its reply
            self._clock = self._loop.call_later(self._limit, self._look)
        self._transport.write(hiredis.pack_command(command))

    def close(self) -> None:
        """Gives it up; whoever waits for a reply learns it at once."""
        self.is_open = False
        self._connection.drop()
        if self._clock:
            self._clock.cancel()
        waiting, self._due = self._due, deque()
        for _, _, replied in waiting:
            replied(None)

    def _look(self, *, again: bool = False) -> None:
        """Gives up when the oldest reply is overdue."""
        self._clock = None
        if not self._due:
            return
        left = self._due[0][1] + self._limit - perf_counter()
        if left > 0:
            self._clock = self._loop.call_later(left, self._look)
        elif not again:
            self._clock = self._loop.call_later(_GRACE, partial(self._look, again=True))
        else:
            self.close()

    # -- the transport's side

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        try:
            while (reply := self._parser.gets()) is not _NOTHING:
                name, began, replied = self._due.popleft()
                if isinstance(reply, Exception):
                    replied(None)
                else:
                    self._heard(name, began, perf_counter() - began)
                    replied(reply)
        except (hiredis.ProtocolError, IndexError):  # no reply to anything that was asked
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.is_open:
            self.close()
