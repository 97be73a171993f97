"""A request's turn that goes on when its client leaves: made by a task of its own, a run from its first event on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any, NoReturn

from proxy.errors import StatecarError
from proxy.runs.keyed import KeyedRequest
from proxy.runs.running import ENDS, Running
from proxy.state import Lease, Run, Runs
from proxy.translate.items import Event
from proxy.turn import ShuttingDown, Turn

_NONE_YET = Run("", "", 0, {}, [])


class Detached(Running):
    """``entered``: it is a run by now, with ``run`` and ``lease``. ``task``: makes it."""

    waits_for_room = False
    task: asyncio.Task[None]

    def __init__(self, runs: Runs, turn: Turn, enter: Callable[[Detached], object], key: KeyedRequest | None) -> None:
        """``enter``: told when it becomes a run. ``key``: it is to stand for that."""
        super().__init__(runs, turn, _NONE_YET, Lease(""))
        self.entered = False
        self._enter, self._key = enter, key
        self._telling = asyncio.Lock()
        self._untold: list[Event] = []
        self._begun = False
        self.go.set()
        turn.attended, turn.settle, turn.keyed = True, self._settle, key is not None

    # -- the request's side

    async def ended_with(self) -> dict[str, Any]:
        """The response of the terminal event. Raises what the request is answered with instead, and RunLost when
        another process has the run now.
        """
        await self.ended()
        response: dict[str, Any] | None = self.latest.get("response") if self.latest else None
        if self.failure or response is None or response["status"] in ("queued", "in_progress"):
            self._refuse()
        return response

    async def told(self) -> AsyncGenerator[list[bytes], None]:
        """The frames of its events while they are here, from the first on; it may stop before the last.

        Raises what the request is answered with instead.
        """
        after = -1
        while (frames := self.since(after)) or (frames is not None and not self.over):
            if frames:
                yield frames
                if frames[-1].startswith(ENDS):
                    return
                after += len(frames)
            else:
                await self.changed()
        if not self.entered:
            self._refuse()

    def _refuse(self) -> NoReturn:
        """Raises what the request is answered with; kept any longer it would be a cycle with the frames it passes."""
        failure, self.failure = self.failure or ShuttingDown(), None
        try:
            raise failure
        finally:
            del failure

    async def open(self) -> None:
        """Tells the opening events before the upstream has answered, if the turn is as far as that (wire §2.6)."""
        if events := self.turn.begin():
            await self._tell_beside(events)

    async def keepalive(self) -> bool:
        """Tells an event that fills a silence; False when only a comment may (wire §9.9)."""
        event = self.turn.keepalive()
        if event:
            await self._tell_beside([event])
        return event is not None

    def leave(self) -> None:
        """The client has left: nobody waits any more, and what has told nothing yet ends."""
        if not self.over:
            self.turn.attended = False
        if not self._begun:
            self.task.cancel()

    def give_up(self, why: StatecarError) -> None:
        """Its request is answered with an error."""
        self.failure = why

    # -- telling

    async def make(self, first: list[Event], batches: AsyncGenerator[list[Event], None]) -> None:
        """The same, and its key is free again if it became no run."""
        try:
            await super().make(first, batches)
        finally:
            if self._key:
                await self._key.let_go()

    async def _tell(self, events: list[Event]) -> None:
        """Also what is told between the turn's own events, by the request's clock: one at a time, in order.

        A clock that is stopped in the middle leaves its events to whoever tells next.
        """
        self._untold += events
        self._begun = True
        async with self._telling:
            if not (self.entered or self.failure):
                await self._keep()
            if self.entered:
                await self._settled()
                told, self._untold = self._untold, []
                if told:
                    await super()._tell(told)

    async def _keep(self) -> None:
        """Makes it a run, or finds for good that it cannot be one, which ends the turn."""
        run = replace(self.turn.as_run(), began=True)
        if not self.run.id:
            self.run, self.lease = run, Lease(run.id)
        try:
            if self._key:
                await self._key.name(run.id)
            await self._runs.create(run, self.lease)
        except StatecarError as exc:
            self.failure, self._begun = exc, False
            self.turn.stop(exc)
            return
        self.turn.lease = self.lease
        self._began = self.entered = True
        self._enter(self)
        if self._key:
            await self._key.let_go()

    async def _settle(self) -> None:
        """The log has all that was told by now; called before the last events are saved with the response."""
        if self._untold or self._unlogged or self._telling.locked():
            await self._tell_beside([])

    async def _tell_beside(self, events: list[Event]) -> None:
        """The same, where the turn does not look afterwards whether it is to end. Raises why it cannot be a run."""
        await self._tell(events)
        if self.failure:
            raise self.failure
