"""What a process knows of each server of the store: how many operations are at it, and whether it answers."""

from __future__ import annotations

import asyncio
from time import perf_counter

from proxy.errors import StoreUnavailable

_AWAY = 1.0
"""Seconds for which a server that did not answer counts as away; then one operation finds out."""

_HANG = 0.5
"""Seconds from which on a failure is worth not having again at once."""


class Node:
    """One server. ``gate``: entered by each operation, so that those beyond the limit wait."""

    def __init__(self, connections: int, limit: float) -> None:
        """``connections``: in use at once, at most. ``limit``: seconds an operation takes at most."""
        self.gate = asyncio.Semaphore(connections)
        self._limit = limit
        self._away_until = 0.0  # when to find out whether it is back; 0 while it is there
        self._answered = 0.0

    @property
    def answers(self) -> bool:
        """Whether it has answered somebody just now."""
        return perf_counter() - self._answered < _AWAY

    def check(self) -> None:
        """Raises StoreUnavailable at once where waiting was in vain a moment ago, except for the one operation that
        finds out.
        """
        now = perf_counter()
        if now < self._away_until:
            raise StoreUnavailable
        if self._away_until:
            self._away_until = now + self._limit

    def note(self, began: float, ok: bool | None) -> None:
        """What an operation that has ended says of the server; ``ok``: None where nobody waited for its end."""
        now = perf_counter()
        if ok is None:
            if self._away_until:
                self._away_until = now  # another one finds out
        elif ok or now - began < _HANG:
            self._answered, self._away_until = now, 0.0
        elif self._answered < began:  # else it is this one that is slow, or has waited for others
            self._away_until = now + _AWAY
