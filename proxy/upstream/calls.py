"""One request of the upstream as it is told to whoever counts them: how it ended, and when its answer began."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from types import TracebackType

from proxy.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.waits import waits

Heard = Callable[[str, str, float | None], object]
"""Hears of every chat call and passed-on request when it is over: the upstream's name, the status, the seconds until
its body began, None when it did not. The status is that of HTTP, or ``unreachable``, ``timeout``, ``broken``; 499 where
it was cut before it was answered.
"""

CUT = 499
"""The status of a call that was cut before it was answered."""


def unheard(_upstream: str, _status: str, _first: float | None) -> None:
    """Nobody wants to know."""


class Call:
    """One request, over when its block is left. ``waits``: of the task that makes it; ``status``: the answer's.

    ``failure``: how it has failed, in one word; "" for a call that has not, or that was refused.
    """

    def __init__(self, upstream: str = "", heard: Heard = unheard) -> None:
        self.waits = waits()
        self.status = CUT
        self._upstream, self._heard = upstream, heard
        self.failure = ""
        self._began = perf_counter()
        self._first: float | None = None

    def begin(self) -> None:
        """The first byte of the answer's body has come."""
        self._first = perf_counter() - self._began

    def fail(self, exc: UpstreamError) -> None:
        """It has failed, at whatever point; a refusal, which has a status, is no failure."""
        if self.status < 300 or self.status == CUT:
            kinds = {UpstreamUnreachable: "unreachable", UpstreamTimeout: "timeout"}
            self.failure = next((word for kind, word in kinds.items() if isinstance(exc, kind)), "broken")

    def __enter__(self) -> Call:
        return self

    def __exit__(self, _type: type[BaseException] | None, exc: BaseException | None, _at: TracebackType | None) -> None:
        if isinstance(exc, UpstreamError):
            self.fail(exc)
        self._heard(self._upstream, self.failure or str(self.status), self._first)
