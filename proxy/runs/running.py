"""One run while this process makes it: what it tells is in the store before anybody hears of it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

from proxy import sse
from proxy.errors import LogFull, RunCancelled, StatecarError
from proxy.state import Lease, Run, Runs
from proxy.translate.items import Event
from proxy.turn import Turn, patiently
from proxy.waits import Waits, begin

log = logging.getLogger("statecar.runs")

ENDS = (b"event: response.completed\n", b"event: response.incomplete\n", b"event: response.failed\n")
"""How the last frame of a stream begins."""

_KEPT = 256
"""Frames kept here for readers that keep up; others read the store."""


class Running:
    """``run``: what is kept of it; ``opening``: the response as it was first told. ``go``: set when it may be made, or
    is to end. ``last``: the number of the newest event told, ``latest``: that event; ``over``: there will be no more.

    ``failure``: why there is no terminal event, once it is over. ``waits``: what making it waited for.
    """

    waits_for_room = True
    """Whether it counts among those that a process makes at a time."""

    def __init__(self, runs: Runs, turn: Turn, run: Run, lease: Lease, *, told: int = 0) -> None:
        """``told``: events that another process has told."""
        self.turn, self.run, self.lease = turn, run, lease
        self.opening: dict[str, Any] = {}
        self.go = asyncio.Event()
        self.over = False
        self.last = told - 1
        self.latest: Event | None = None
        self.failure: StatecarError | None = None
        self.waits = Waits()
        self._runs, self._began = runs, run.began
        self._frames: deque[bytes] = deque(maxlen=_KEPT)
        self._waiting: set[asyncio.Future[None]] = set()

    # -- making

    async def make(self, first: list[Event], batches: AsyncGenerator[list[Event], None]) -> None:
        """Pulls the turn to its end. ``first``: what was pulled before.

        Raises RunLost when another process makes the run, or is to.
        """
        self.waits = begin()
        try:
            if first:
                await self._tell(first)
            await self.go.wait()
            async for events in batches:
                if events:
                    await self._tell(events)
        finally:
            self.turn.facts |= self.waits.told()

    def give_up(self, why: StatecarError) -> None:
        """It cannot be made here; whoever takes it up may do better."""
        self.failure = why
        log.error("response %s cannot be made: %s", self.run.id, why.message)

    def stop(self, why: StatecarError) -> None:
        """Ends it, also while it waits for its turn."""
        self.turn.stop(why)
        self.go.set()

    async def _tell(self, events: list[Event]) -> None:
        """Logs events, then hands them to the readers. The turn's last ones are logged with its save."""
        is_logged, first = self.turn.is_logged, events[0]["sequence_number"]
        frames = list(map(sse.encode, events)) if is_logged else []
        try:
            if is_logged and not self.turn.saved:
                await patiently(lambda: self._runs.append(self.lease, first, frames))
            if not self._began and any(event["type"] == "response.in_progress" for event in events):
                self._began = True
                await patiently(lambda: self._runs.hold(self.lease, began=True))
        except (RunCancelled, LogFull) as exc:
            self.turn.stop(exc)
        self._frames.extend(frames)
        self.last, self.latest = first + len(events) - 1, events[-1]
        self._wake()

    def finish(self) -> None:
        """Nothing more comes from here."""
        self.over = True
        self._wake()

    # -- reading

    def since(self, number: int) -> list[bytes] | None:
        """The frames after that number, as far as there are any; None when they are not all here any more."""
        missing = self.last - number
        if missing > len(self._frames):
            return None
        return list(self._frames)[-missing:] if missing > 0 else []

    async def changed(self) -> None:
        """Returns when there is more, or an end."""
        if self.over:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    async def ended(self) -> None:
        """Returns when nothing more comes from here."""
        while not self.over:
            await self.changed()

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
