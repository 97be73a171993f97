"""What a request waits for while it is answered: noted where it waits, by the second, and told when it is over."""

from __future__ import annotations

import asyncio
import weakref
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal


@dataclass(eq=False)
class Waits:
    """Seconds that one task has waited for the upstream, for the store, for tools, and for its client."""

    upstream: float = 0.0
    store: float = 0.0
    tools: float = 0.0
    client: float = 0.0
    began: float = field(default_factory=perf_counter)

    def told(self) -> dict[str, float | None]:
        """Milliseconds since the beginning, by what they went to; the client's are left out. None: there were no
        tools.
        """
        own = max(0.0, perf_counter() - self.began - self.upstream - self.store - self.tools - self.client)
        return {
            "upstream_ms": round(self.upstream * 1000, 2),
            "store_ms": round(self.store * 1000, 2),
            "tools_ms": round(self.tools * 1000, 2) if self.tools else None,
            "own_ms": round(own * 1000, 2),
        }


_running: ContextVar[tuple[weakref.ref[asyncio.Task[object]], Waits] | None] = ContextVar("waits", default=None)
"""A task and its waits; tasks beside it inherit this, and a task holds its context, hence the weak reference."""


def begin(begun: Waits | None = None) -> Waits:
    """Those of the running task from now on. ``begun``: by another task, whose work this one goes on with."""
    task = asyncio.current_task()
    assert task is not None, "coroutines run in tasks"
    begun = begun or Waits()
    _running.set((weakref.ref(task), begun))
    return begun


def waits(task: asyncio.Task[object] | None = None) -> Waits:
    """Those of the running ``task``, where a wait is added; of one that has none of its own, nobody's."""
    found = _running.get()
    if found is not None and found[0]() is (task or asyncio.current_task()):
        return found[1]
    return Waits()


class Waiting:
    """A block that the running task spends waiting for one of these; its time is noted."""

    def __init__(self, on: Literal["upstream", "store", "tools", "client"]) -> None:
        self._on, self._noted = on, waits()

    def __enter__(self) -> None:
        self._began = perf_counter()

    def __exit__(self, *_: object) -> None:
        noted = getattr(self._noted, self._on)
        setattr(self._noted, self._on, noted + perf_counter() - self._began)
