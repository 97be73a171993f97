"""What was told of runs whose state is asked for again and again: only what is new is read each time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from proxy import sse
from proxy.state import Runs
from proxy.translate.told import Telling

_BYTES = 64 * 1024 * 1024
"""Most bytes of events that are remembered, added up to much less."""

_EMPTY = 1024
"""Bytes that a run counts for of which nothing has been told."""


@dataclass
class _Seen:
    telling: Telling = field(default_factory=Telling)
    size: int = 0


class Polled:
    """Logs, added up. A log only grows, the same for every process, so what was seen of it stays true.

    ``most``: bytes; the runs that were asked for longest ago are forgotten first.
    """

    def __init__(self, runs: Runs, most: int = _BYTES) -> None:
        self._runs, self._most, self._held = runs, most, 0
        self._known: OrderedDict[str, _Seen] = OrderedDict()

    async def telling(self, id_: str) -> Telling:
        """What was told of a run until now; to be looked at at once, as it grows, and not to be changed."""
        seen = self._known.get(id_)
        if seen is None:
            seen = self._known[id_] = _Seen()
            self._grow(id_, seen, _EMPTY)
        else:
            self._known.move_to_end(id_)
        telling = seen.telling
        while frames := await self._runs.events(id_, (after := telling.sequence) - 1):
            new = frames[telling.sequence - after :]  # without what somebody else has added meanwhile
            telling.add(map(sse.decode, new))
            self._grow(id_, seen, sum(map(len, new)))
        return telling

    def _grow(self, id_: str, seen: _Seen, size: int) -> None:
        if self._known.get(id_) is not seen:
            return
        seen.size += size
        self._held += size
        while self._held > self._most:
            _, oldest = self._known.popitem(last=False)
            self._held -= oldest.size
