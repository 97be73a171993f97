"""What is seen of runs, wherever they are made: their events, how they stand, what their model sees."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from typing import Any

from proxy import sse
from proxy.errors import EncryptionKeyMissing, RunLost, StatecarError, StoreUnavailable, TooManyFollowers
from proxy.runs.polled import Polled
from proxy.runs.running import ENDS, Running
from proxy.state import Run, Runs, Stored
from proxy.translate.response import skeleton
from proxy.translate.told import Telling
from proxy.turn import Caller, Services, past_of, patiently

log = logging.getLogger("statecar.runs")

_LOOK = 0.02
_LONGEST_LOOK = 0.5
"""Seconds between looks whether a run is over that is made elsewhere: at first, and at most."""


class Reading:
    """``running``: the runs that are made here, by their ids."""

    def __init__(self, services: Services, running: Mapping[str, Running]) -> None:
        self._services, self._running = services, running
        self._runs: Runs = services.state.runs
        self._polled = Polled(self._runs)
        self._followers = 0

    def check_room(self) -> None:
        """Raises TooManyFollowers."""
        if self._followers >= self._runs.limits.followers:
            raise TooManyFollowers

    async def follow(self, id_: str, after: int) -> AsyncGenerator[list[bytes], None]:
        """The frames of a run's events with greater numbers than ``after``, until its last, wherever it is made.

        Raises RunLost when the store stays away, or has lost the run.
        """
        self._followers += 1
        wait = False
        try:
            while True:
                running = self._running.get(id_)
                if running and running.over:  # what is left to tell is in the store
                    running = None
                if running and running.last <= after:
                    await running.changed()
                    continue
                frames = running.since(after) if running else None
                if frames is None:
                    is_over, frames = await self._read(id_, after, made_here=running is not None, wait=wait)
                    if is_over and not await patiently(lambda: self._runs.events(id_, -1, most=1)):
                        raise RunLost("The run has gone.")
                    if is_over:
                        return
                    wait = True
                if frames:
                    yield frames
                    after += len(frames)
                    if frames[-1].startswith(ENDS):
                        return
        finally:
            self._followers -= 1

    async def _read(self, id_: str, after: int, *, made_here: bool, wait: bool) -> tuple[bool, list[bytes]]:
        """(whether there will be no more, the frames in the store). ``wait``: waits a moment for the first of them."""

        async def read() -> tuple[bool, list[bytes]]:
            frames = await self._runs.events(id_, after, wait=wait)
            if frames or made_here or await self._runs.exists(id_):
                return False, frames
            frames = await self._runs.events(id_, after)  # its last ones came with its end
            return not frames, frames

        return await patiently(read)

    async def end(self, id_: str, tenant: str) -> Stored | None:
        """What a run has become, wherever it was made, once it is over; None when nothing is left of it.

        Raises StoreUnavailable when the store stays away.
        """
        pause = _LOOK
        try:
            while await patiently(lambda: self._runs.exists(id_)):
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_LOOK)
            return await patiently(lambda: self._services.state.responses.load(id_, tenant))
        except RunLost:
            raise StoreUnavailable from None

    async def is_logged(self, stored: Stored) -> bool:
        """Whether a response's events are still there."""
        return stored.logged and bool(await self._runs.events(stored.id, -1, most=1))

    async def snapshot(self, run: Run) -> dict[str, Any]:
        """The response as it stands: what readers of its stream have seen."""
        response = skeleton(run.request, run.id, run.created_at)
        telling = await self._polled.telling(run.id)
        response["status"] = "in_progress" if run.began or telling.began else "queued"
        response["output"] = [item.item for item in telling.items]
        return response

    async def telling(self, run: Run, *, ends: bool) -> Telling:
        """What was told of a run until now. ``ends``: nobody goes on with it, and a damaged log counts as empty: the
        run must not stay for ever. Raises as ``Envelope.unwrap``.
        """
        frames = list[bytes]()
        try:
            while more := await self._runs.events(run.id, len(frames) - 1):
                frames += more
            return Telling(map(sse.decode, frames))
        except (StoreUnavailable, EncryptionKeyMissing):
            raise
        except Exception:
            if not ends:
                raise
            log.exception("response %s ends without what was told of it, which cannot be read", run.id)
            return Telling()

    async def context(self, run: Run) -> list[dict[str, Any]]:
        """All that the run's model sees, oldest first; only its own input when the rest has gone."""
        try:
            async with AsyncExitStack() as stack:
                past = await past_of(run.request, self._services, Caller(run.tenant), stack, storing=False, run=run)
        except StoreUnavailable:
            raise
        except StatecarError:
            return run.given
        return [*past.items, *run.given]
