"""Everything that goes wrong while clients are at it: processes, the store and the model server's connections."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

from tests.faults.fleet import Fleet, Member
from tests.faults.teller import Teller
from tests.servers import Server

AFTERMATH = 3.0
"""Seconds after a trouble in which it may still be felt."""


class Trouble:
    """``counts``: how often each kind has been; ``log``: when, as (kind, begin, end)."""

    def __init__(self, fleet: Fleet, store: Server, teller: Teller, chance: random.Random, gap: float) -> None:
        """``gap``: seconds of peace between troubles, on average."""
        self._fleet, self._store, self._teller, self._chance, self._gap = fleet, store, teller, chance, gap
        self.counts: Counter[str] = Counter()
        self.log: list[tuple[str, float, float]] = []
        self._since: float | None = None
        self._peace = asyncio.Event()
        self._peace.set()

    def felt_since(self, moment: float) -> bool:
        """Whether anything that was asked for since then may have met a trouble."""
        return self._since is not None or any(end + AFTERMATH > moment for _, _, end in self.log[-3:])

    async def calm(self) -> None:
        """Returns in peace, when nothing that was sent in a trouble is still on its way."""
        await self._peace.wait()
        await asyncio.sleep(1)
        await self._peace.wait()

    async def go_on(self) -> None:
        """One trouble after the other, until it is cancelled. The first member is spared by what ends processes."""
        kinds = {
            "process killed": (self._kill, 4),
            "process ended": (self._end, 3),
            "store killed": (self._kill_store, 2),
            "store paused": (self._pause_store, 2),
            "upstream cut": (self._cut_upstream, 3),
        }
        while True:
            await asyncio.sleep(self._chance.uniform(0.5, 1.5) * self._gap)
            kind = self._chance.choices(list(kinds), [weight for _, weight in kinds.values()])[0]
            self._since, began = time.monotonic(), time.monotonic()
            self._peace.clear()
            try:
                await kinds[kind][0]()
            finally:
                self.counts[kind] += 1
                self.log.append((kind, began, time.monotonic()))
                self._since = None
                self._peace.set()

    def _mortal(self) -> Member:
        return self._chance.choice(self._fleet.members[1:])

    async def _kill(self) -> None:
        member = self._mortal()
        await member.kill()
        await member.start()

    async def _end(self) -> None:
        member = self._mortal()
        await member.end()
        await member.start()

    async def _kill_store(self) -> None:
        await asyncio.to_thread(self._store.stop)
        await asyncio.sleep(self._chance.uniform(0, 1.5))
        await asyncio.to_thread(self._store.start)

    async def _pause_store(self) -> None:
        self._store.pause()
        try:
            await asyncio.sleep(self._chance.uniform(0.2, 2.5))
        finally:
            self._store.resume()

    async def _cut_upstream(self) -> None:
        self._teller.cut_all()
