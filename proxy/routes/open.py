"""The requests a process is answering, so that it can end them before it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class OpenRequests:
    """Each request by its task, with what ends it: cancellation, or something gentler while that is known.

    ``warned``: they will be told to end; ``stopped``: they have been. ``streams``: called with 1 for an event stream
    that begins, with -1 for one that is over.
    """

    def __init__(self, streams: Callable[[int], object] = bool) -> None:
        self.stopped = self.warned = False
        self.streams = streams
        self._ends: dict[asyncio.Task[object], Callable[[], object]] = {}
        self._warnings: set[Callable[[], object]] = set()
        self._none = asyncio.Event()
        self._none.set()

    def __len__(self) -> int:
        return len(self._ends)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts the running task's request while the block runs."""
        task = current_task()
        self._ends[task] = task.cancel
        self._none.clear()
        try:
            yield
        finally:
            del self._ends[task]
            if not self._ends:
                self._none.set()

    @contextmanager
    def ended_by(self, end: Callable[[], object]) -> Iterator[None]:
        """Within the block the request is ended by this call: a stream gets its terminal event."""
        task = current_task()
        self._ends[task] = end
        try:
            yield
        finally:
            self._ends[task] = task.cancel

    @contextmanager
    def warned_by(self, warn: Callable[[], object]) -> Iterator[None]:
        """Within the block this is called when the process begins to end."""
        self._warnings.add(warn)
        if self.warned:
            warn()
        try:
            yield
        finally:
            self._warnings.discard(warn)

    def warn(self) -> None:
        """Tells those that wait for something to do that the process begins to end."""
        self.warned = True
        for warn in tuple(self._warnings):
            warn()

    def stop(self) -> None:
        """Ends them all."""
        self.stopped = True
        for end in tuple(self._ends.values()):
            end()

    async def none_open(self) -> None:
        """Returns when the last of them has ended."""
        await self._none.wait()


def current_task() -> asyncio.Task[object]:
    """The running one."""
    task = asyncio.current_task()
    assert task is not None, "coroutines run in tasks"
    return task
