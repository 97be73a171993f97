"""What a process knows of each server of the store: how many operations are at it, and whether it answers."""

from __future__ import annotations

import asyncio
from time import perf_counter

from proxy.errors import StoreUnavailable
from proxy.state.patience import STEP, Patience

_AWAY = 1.0
"""Seconds for which a server that did not answer counts as away; then one operation finds out."""

_HANG = 0.5
"""Seconds from which on a failure is worth not having again at once."""

_OVERLOAD = 10.0
"""Seconds that an operation takes at most where the server answers others."""


class Node:
    """One server. ``gate``: entered by each operation, so that those beyond the limit wait."""

    def __init__(self, connections: int, limit: float) -> None:
        """``connections``: in use at once, at most. ``limit``: seconds an operation takes at most."""
        self.gate = asyncio.Semaphore(connections)
        self._limit = limit
        self._away_until = 0.0  # when to find out whether it is back; 0 while it is there
        self.answered = 0.0
        """When it answered somebody last."""

    @property
    def answers(self) -> bool:
        """Whether it has answered somebody just now."""
        return perf_counter() - self.answered < _AWAY

    def patience(self) -> Patience:
        """How long an operation waits, for its turn at the gate too."""
        return _AtNode(self, self._limit)

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
            self.answered, self._away_until = now, 0.0
        elif self.answered < began:  # else it is this one that is slow, or has waited for others
            self._away_until = now + _AWAY


class _AtNode(Patience):
    """The limit of an operation; more where the server answers others meanwhile: they are too many, it is not away."""

    def __init__(self, node: Node, limit: float) -> None:
        super().__init__(limit)
        self._node, self._answered, self._silent = node, node.answered, 0.0

    def over(self) -> bool:
        before, self._answered = self._answered, self._node.answered
        self._silent = self._silent + STEP if self._answered == before else 0.0
        return self.spent >= _OVERLOAD or (super().over() and self._silent >= _AWAY)
