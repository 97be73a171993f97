"""One replica of a group as this process sees it: what it has open there, and whether it is worth asking."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from hashlib import blake2b

from proxy.errors import OVERFLOW, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.upstream.client import Upstream

_LONGEST = 16  # times as long as the first time that a replica is out, at most
_LONGEST_PAUSE = 60.0  # seconds that a replica is believed to want to be left alone
_AWAY = (502, 503, 504)  # an error without a status of the upstream's own is 502 or 504


def is_for_another(error: UpstreamError) -> bool:
    """Whether another replica may do what one could not. Not a 500: a request that kills one must not kill them all."""
    return error.status == 429 or error.status in _AWAY


def is_failure(error: UpstreamError) -> bool:
    """Whether an error speaks against its replica. Not a 501, say, which is an answer: llama.cpp's for what is off; nor
    a context that is too long, for which it has a 500 within an answer.
    """
    return (error.status == 500 or error.status in _AWAY) and error.code != OVERFLOW


def in_words(error: UpstreamError) -> str:
    """What it is, for the log: words of our own alone, as an upstream's may quote what it was asked."""
    ours = isinstance(error, UpstreamUnreachable | UpstreamTimeout)
    return error.message if ours else f"status {error.status}"


class Replica:
    """``open``: requests that are there; ``limit``: as many at most. ``closed_until``: when it may be picked again, by
    the clock of its group. ``is_out``: it was ejected, and nothing has shown since that it is well; else it is closed
    only because it asked for that. ``failed_at``: when it showed last that it is not; ``again_at``: when that is to be
    tried, by a health check where there are any, else by one call, which has until ``trial_ends`` before others may.
    ``fault``: what the last check found, "" before the first.

    ``after``: failures in a row that eject it, those of calls and those of checks each counted by themselves; a call
    that is answered ends both rows, save that answers which broke off count until one has come whole. ``seconds``: for
    how long, twice as long each time that calls show it. ``era``: goes up with each such time, and each answer that
    broke off: all that one event cuts are one failure, and what began before it says nothing after it.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        limit: int = 0,
        health_path: str = "",
        after: int = 3,
        seconds: float = 10.0,
    ) -> None:
        self.upstream, self.name, self.health_path = upstream, upstream.name, health_path
        self.seed = int.from_bytes(blake2b(upstream.base_url.encode(), digest_size=8).digest(), "big")
        self.open, self.limit = 0, limit or sys.maxsize
        self.closed_until = self.failed_at = self.again_at = self.trial_ends = 0.0
        self.is_out = self.is_checked = False
        self.fault: str | None = ""
        self._after, self._seconds = after, seconds
        self._failures = self._breaks = self._misses = self._ejections = self.era = 0

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit to its open requests."""
        return self.limit < sys.maxsize

    def begin_trial(self, now: float) -> None:
        """A call tries whether it is well again."""
        self.trial_ends = now + self._seconds
        self.closed_until = math.inf if self.is_checked else self.trial_ends

    def leave_trial(self) -> None:
        """That call is over and told nothing: another may."""
        self.trial_ends = 0.0
        if self.is_out:
            self.closed_until = math.inf if self.is_checked else self.again_at

    def is_due(self, now: float) -> bool:
        """Whether a health check is of use."""
        return not self.is_out or self.again_at <= now

    # What follows gives what has become of the replica by it: "ejected", "returned", or "" for no news.

    def well(self, *, trial: bool) -> str:
        """A call was answered. ``trial``: it was to show whether the replica is well."""
        if self.is_out and not trial:
            return ""  # it began before others failed
        self._failures = self._misses = 0
        if not self._breaks:
            self._ejections = 0
        return self._return()

    def whole(self, *, era: int) -> None:
        """An answer has come whole. ``era``: when it began; it says nothing of later ones."""
        if era == self.era:
            self._breaks = self._ejections = 0

    def broke(self, now: float, *, era: int, others: Callable[[], bool]) -> str:
        """An answer broke off after its beginning. The rest as for ``whole`` and ``failed``.

        By such none is the last to go: it does answer.
        """
        if era != self.era:
            return ""
        self.era += 1
        self._breaks += 1
        return self._eject(now) if self._has_failed and others() else ""

    def failed(self, failure: UpstreamError, now: float, *, trial: bool, others: Callable[[], bool]) -> str:
        """A call failed. ``others``: whether any can be asked.

        A replica that answers 500 is never the last to go: it is there, and what is wrong may be what it was asked.
        """
        if self.is_out and not trial:
            return ""
        self._failures += 1
        if failure.status == 500 and not others():
            return self._return()
        return self._eject(now) if trial or self._has_failed else ""

    def checked(self, fault: str | None, now: float, *, others: Callable[[], bool]) -> str:
        """A health check is over; what is wrong, if anything. ``others``: whether any other replica can be asked.

        One that is out is checked anew after ``seconds``, never longer: it is wanted as soon as its model is loaded.
        Back by a check alone it is out again, for longer, with the next call that fails. By checks alone none is the
        last to go: all may be too busy for them, and turns are what must be answered.
        """
        self.fault = fault
        if fault is None:
            self._misses, self._failures = 0, self._after - 1 if self.is_out else self._failures
            return self._return()
        self._misses += 1
        if self.is_out:
            self.failed_at, self.again_at = now, now + self._seconds
            return ""
        return self._eject(now) if self._misses >= self._after and others() else ""

    def pause(self, refusal: UpstreamError, now: float) -> None:
        """A refusal may say for how long nothing should be asked."""
        if refusal.status in (429, 503) and not self.is_out and (seconds := seconds_asked(refusal.headers)):
            self.closed_until = max(self.closed_until, now + seconds)

    @property
    def _has_failed(self) -> bool:
        return self._failures + self._breaks >= self._after

    def _return(self) -> str:
        if not self.is_out:
            return ""
        self.closed_until, self.is_out, self.trial_ends = 0.0, False, 0.0
        return "returned"

    def _eject(self, now: float) -> str:
        if not self.is_out or now >= self.again_at:  # else it was tried before its time, as all others are out too
            self._ejections = min(self._ejections + 1, _LONGEST)
        self.era += 1
        self.failed_at = now
        self.again_at = now + self._seconds * min(2 ** (self._ejections - 1), _LONGEST)
        self.closed_until = math.inf if self.is_checked else self.again_at
        news, self.is_out, self.trial_ends = "" if self.is_out else "ejected", True, 0.0
        return news


def seconds_asked(headers: Mapping[str, str]) -> float:
    """For how long an answer asks not to be asked again, 60 s at most: 0 when it does not, or in no known form."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text) if text else 0.0
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            seconds = 0.0
    return min(seconds, _LONGEST_PAUSE) if seconds > 0 else 0.0
