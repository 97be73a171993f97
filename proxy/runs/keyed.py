"""Requests with an idempotency key: one of them makes the response, all others are answered with it (wire §10.13)."""

from __future__ import annotations

import asyncio

from proxy.errors import KeyLost, KeyReused, StoreUnavailable
from proxy.state import Claim, Run, State, Stored

_LOOK = 0.02
_LONGEST_LOOK = 0.5
"""Seconds between looks what becomes of a key that another request holds: at first, and at most."""

_KEPT = ("completed", "incomplete")
"""How a response must have ended to stand for its key."""


class KeyedRequest:
    """A request with a key, which it holds from ``found`` on, if nobody else has it, until ``let_go``.

    ``held``: the requests whose holds are to be renewed.
    """

    def __init__(self, state: State, claim: Claim, held: set[KeyedRequest]) -> None:
        self.claim = claim
        self._state, self._held = state, held

    async def found(self) -> Stored | Run | None:
        """The response that stands for the key, or its run; None when the key is this request's now.

        Waits for another request that is about to make the response. Raises KeyReused and StoreUnavailable.
        """
        freed, pause = "", _LOOK
        self._held.add(self)
        while other := await self._state.idempotency.take(self.claim, freed):
            found = await self._standing(other.response)
            if other.body != self.claim.body and (found or not other.response):
                raise KeyReused
            if found:
                self._held.discard(self)
                return found
            freed = other.response
            if other.held:
                freed = ""  # it is about to be made, or its end is about to be seen
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_LOOK)
        return None

    async def name(self, id_: str) -> None:
        """Lets the key stand for a response that is about to be a run. Raises KeyLost."""
        if not await self._state.idempotency.name(self.claim, id_):
            raise KeyLost

    async def let_go(self) -> None:
        """The hold is over: there is a run, or there will be none."""
        if self not in self._held:
            return
        self._held.discard(self)
        try:
            await self._state.idempotency.let_go(self.claim)
        except StoreUnavailable:
            pass  # logged; it ends by itself

    async def renew(self) -> None:
        """Holds the key on."""
        try:
            await self._state.idempotency.hold(self.claim)
        except StoreUnavailable:
            pass  # logged; a hold outlasts two failures

    async def _standing(self, id_: str) -> Stored | Run | None:
        """What a key stands for; None when that has failed or gone."""
        if not id_:
            return None
        found = await self._state.responses.find(id_, self.claim.tenant)
        return found if isinstance(found, Run) or (found and found.status in _KEPT) else None
