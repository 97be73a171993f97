"""All of a tenant taken away: its lineages, its lists, what counts for it, and what runs for it."""

from __future__ import annotations

from dataclasses import dataclass

from proxy import ids
from proxy.state.client import Client, Script
from proxy.state.keys import STOPS
from proxy.state.runs import Runs
from proxy.state.sweep import Sweep, by_lineage, each

_PURGE = Script("purge")

_PASSES = 3
"""How often all keys are looked at: a turn that was under way may save while the others go."""


@dataclass(slots=True)
class Purged:
    """``keys``: how many are gone. ``runs``: how many responses in the making were ended. ``done``: a last look found
    nothing more.
    """

    keys: int = 0
    runs: int = 0
    done: bool = False


class Purge:
    """One tenant's purge. Raises StoreUnavailable; then it is to be begun again, and goes on."""

    def __init__(self, client: Client, sweep: Sweep, runs: Runs) -> None:
        self._client, self._sweep, self._runs = client, sweep, runs
        self.purged = Purged()

    async def count(self) -> int:
        """How many lineages it would take away, those that have expired perhaps among them."""
        await self._sweep.complete()
        return await self._sweep.count()

    async def run(self) -> Purged:
        """Takes everything away."""
        await self._sweep.complete()
        await self._end_runs()
        for _ in range(_PASSES):
            self.purged.done = not await self._pass()
            if self.purged.done:
                break
            await self._sweep.complete()
        await self._forget_stops()
        await self._client.script(_PURGE, [self._sweep.list])  # last: by it the rest is found
        return self.purged

    async def _end_runs(self) -> None:
        """Nothing can be saved for them from here on but what a pass will find."""
        for id_ in await self._runs.of_tenant(self._sweep.tenant):
            if await self._runs.cancel(id_, self._sweep.tenant) is not None:
                await self._runs.announce(id_)
                self.purged.runs += 1
            await self._runs.ended(id_, self._sweep.tenant)

    async def _pass(self) -> int:
        """How many keys it has found."""
        gone = 0
        async for names in self._sweep.names():
            gone += sum(await each(self._client, _PURGE, by_lineage(names)))
        async for names in self._sweep.own():
            gone += await self._client.script(_PURGE, [name.decode() for name in names]) if names else 0
        self.purged.keys += gone
        return gone

    async def _forget_stops(self) -> None:
        """Of runs that somebody wanted to end the ids are told to all for a while."""
        for number, fields in await self._client.command("XRANGE", STOPS, "-", "+"):
            minted = ids.parse(fields[b"r"].decode())
            if minted and await self._sweep.has(minted.tag):
                await self._client.command("XDEL", STOPS, number)
