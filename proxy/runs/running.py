"""One run while this process makes it: what it tells is in the store before anybody hears of it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from proxy import sse
from proxy.errors import LogFull, RunCancelled, RunLost, StatecarError, StoreUnavailable
from proxy.state import Lease, Run, Runs
from proxy.translate.items import Event
from proxy.turn import Turn, patiently
from proxy.waits import Waiting, Waits, begin

log = logging.getLogger("statecar.runs")

ENDS = (b"event: response.completed\n", b"event: response.incomplete\n", b"event: response.failed\n")
"""How the last frame of a stream begins."""

_KEPT = 64
"""Frames kept here for readers that keep up, 20 KB, or as many as came in one read; others read the store."""


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
        self._loop = asyncio.get_running_loop()  # to ask for it is a system call on Python 3.11
        self._frames: deque[bytes] = deque(maxlen=_KEPT)
        self._waiting: list[asyncio.Future[None]] = []
        self._unlogged: list[Event] = []  # those that the store is being told of
        self._insisting: asyncio.Task[None] | None = None
        self._broken: BaseException | None = None
        turn.settle = self._settled

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
        """Logs events, after those before; readers get them once they are in the log. A turn goes on while a delta is
        being logged. All else is in the log before anything is done about it: no tool is called of which nobody knows.
        """
        if self._unlogged or self._broken:
            await self._settled()
        self._unlogged = events
        frames = [sse.encode(event) for event in events] if self.turn.is_logged else []
        if not frames or self.turn.saved:  # the turn's last ones are logged with its save
            self._publish(frames)
        else:
            first, logged = events[0]["sequence_number"], partial(self._logged, frames)
            if not self._runs.append_soon(self.lease, first, frames, logged):
                self._insist(frames)
        if len(events) > 1 or not events[0]["type"].endswith(".delta"):
            await self._settled()
            if not self._began and any(event["type"] == "response.in_progress" for event in events):
                await self._note_beginning()

    async def _note_beginning(self) -> None:
        self._began = True
        try:
            await patiently(lambda: self._runs.hold(self.lease, began=True))
        except RunCancelled as exc:
            self.turn.stop(exc)

    async def _settled(self) -> None:
        """Returns when the log has all that was to be told. Raises RunLost."""
        with Waiting("store"):
            while self._unlogged and not self._broken:
                await self.changed()
        if self._broken:
            raise self._broken

    def _logged(self, frames: list[bytes], refusal: BaseException | None) -> None:
        """Hears what has become of events on their way to the log; to wake the turn for it would cost 20 us."""
        if self.over:
            return
        if refusal is None:
            self._publish(frames)
        elif isinstance(refusal, StoreUnavailable):
            self._insist(frames)
        elif isinstance(refusal, RunCancelled | LogFull):
            self.turn.stop(refusal)
            self._publish(frames)
        else:
            self._broken = refusal
            self._wake()
            self.turn.stop(refusal if isinstance(refusal, RunLost) else StatecarError("Its events cannot be logged."))

    def _insist(self, frames: list[bytes]) -> None:
        """Logs events however long the store takes."""
        first = self._unlogged[0]["sequence_number"]

        async def insist() -> None:
            await patiently(lambda: self._runs.append(self.lease, first, frames))

        def over(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                self._logged(frames, task.exception())

        self._insisting = asyncio.create_task(insist())
        self._insisting.add_done_callback(over)

    def _publish(self, frames: list[bytes]) -> None:
        """Hands events to the readers, that are in the log by now."""
        events, self._unlogged = self._unlogged, []
        if len(frames) > _KEPT:
            self._frames = deque(frames, len(frames))
        else:
            self._frames.extend(frames)
        self.last, self.latest = events[-1]["sequence_number"], events[-1]
        self._wake()

    def finish(self) -> None:
        """Nothing more comes from here."""
        self.turn.settle = None  # it leads back here: a cycle would keep the whole context for the collector
        self.over, self._unlogged = True, []
        if self._insisting:
            self._insisting.cancel()
        self._wake()

    # -- reading

    def since(self, number: int) -> list[bytes] | None:
        """The frames after that number, as far as there are any; None when they are not all here any more."""
        missing = self.last - number
        if missing > len(self._frames):
            return None
        if missing == 1:  # as nearly always of a reader that keeps up
            return [self._frames[-1]]
        return list(self._frames)[-missing:] if missing > 0 else []

    def changed(self) -> asyncio.Future[None]:
        """To await until there is more, or an end."""
        waiter = self._loop.create_future()
        if self.over:
            waiter.set_result(None)
        else:
            self._waiting.append(waiter)
        return waiter

    async def ended(self) -> None:
        """Returns when nothing more comes from here."""
        while not self.over:
            await self.changed()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
