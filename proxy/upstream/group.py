"""A group of replicas that serve the same models: which one a call goes to, and which other where that one cannot."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from types import TracebackType
from typing import TypeVar

from proxy.errors import UpstreamError, UpstreamUnavailable, UpstreamUnreachable
from proxy.upstream.choosing import least_open, nearest
from proxy.upstream.client import Upstream
from proxy.upstream.replica import Replica, in_words, is_failure, is_for_another

log = logging.getLogger(__name__)

T = TypeVar("T")

_WINDOW = 10.0  # seconds over which calls and retries are counted
_FREE, _SHARE = 10, 0.2  # retries that a window has whatever its calls, and for each of them

Told = Callable[[str, str, str], object]
"""Hears what a group does beside answering: (what, the group's name, a replica's name).

``ejected``, ``returned``: that replica, in this process's view; told in turn, so that a gauge may go up and down.
``retry``: a call goes on to another replica, as this one could not. ``fallback``: a call goes on to another group,
whose name stands in the replica's place. Calls themselves are told by ``Heard``, one for each replica asked.
"""


def untold(_what: str, _group: str, _replica: str) -> None:
    """Nobody wants to know."""


def _unknown(_answer: object) -> None:
    """Whether an answer came whole tells nothing."""


@dataclass(frozen=True)
class Rules:
    """How every group chooses. ``affinity``: the calls of a session go to one replica, as long as it has less than
    ``load_factor`` times its part of what is open. ``retries``: other replicas that a call is tried at, at most.
    ``interval``: seconds between health checks, 0 for none.
    """

    affinity: bool = True
    load_factor: float = 1.25
    retries: int = 2
    interval: float = 5.0


class Group:
    """``identity``: stands for what its servers are and what their refusals taught. ``only``: the one upstream of a
    group where there is nothing to choose: then it is asked as it is, at no cost.
    """

    def __init__(
        self,
        name: str,
        replicas: Sequence[Replica],
        rules: Rules,
        *,
        kind: str = "auto",
        has_fallbacks: bool = False,
        told: Told = untold,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.replicas, self.kind, self.told = name, tuple(replicas), kind, told
        self.base_url = replicas[0].upstream.base_url
        self.identity = _identity([replica.upstream.base_url for replica in replicas])
        self.has_key = all(replica.upstream.has_key for replica in replicas)
        self.open = 0
        self._watched = len(replicas) > 1 or has_fallbacks
        self.only = None if self._watched or replicas[0].is_limited else replicas[0].upstream
        self._rules, self._has_fallbacks, self.now = rules, has_fallbacks, now
        for replica in replicas:
            replica.is_checked = self.is_checked
        self._turn = 0
        self._window_ends, self._calls, self._retries, self._news = 0.0, 0, 0, logging.WARNING

    # --- choosing

    def choose(self, session: str, tried: Collection[Replica] = ()) -> Replica | None:
        """The replica for a call, None where none can be asked. ``session``: calls of one meet the same replica, "" for
        the one with the least open. ``tried``: those that could not; then only such as are well come into question.
        """
        now = self.now()
        there = [replica for replica in self.replicas if replica.closed_until <= now and replica not in tried]
        if not there:
            if tried or self._has_fallbacks:
                return None
            # those that asked for a pause rather than none; else one call at a time tries whether they are well again
            there = [replica for replica in self.replicas if not replica.is_out]
            if not there:
                is_tried = any(each.trial_ends > now for each in self.replicas)
                return None if is_tried else min(self.replicas, key=_failed_at)
        if session and self._rules.affinity:
            return nearest(there, session, self._rules.load_factor, self.open)
        self._turn += 1
        return least_open(there, self._turn)

    def _unavailable(self) -> UpstreamUnavailable:
        ends = (max(each.again_at, each.trial_ends) if each.is_out else each.closed_until for each in self.replicas)
        soonest = min(ends) - self.now()
        return UpstreamUnavailable(
            f"No upstream of '{self.name}' can be asked now: all are out, or have as many requests as they may have.",
            max(1, math.ceil(soonest)),
        )

    # --- calls

    @asynccontextmanager
    async def call(  # noqa: PLR0913  all that a call may be
        self,
        session: str,
        begin: Callable[[Upstream], AbstractAsyncContextManager[T]],
        begun: Callable[[T], Awaitable[UpstreamError | None]],
        chosen: Callable[[str], object],
        *,
        whole: Callable[[T], bool | None] = _unknown,
        again: bool = True,
        proves: bool = True,
        keyed: bool = False,
    ) -> AsyncIterator[T]:
        """What ``begin`` gives for the replica that is to be asked, or for the next one, as long as nothing was told.

        ``begun``: waits until it can be told, and gives the failure that an answer is though it can be told;
        ``chosen``: hears of each replica's name; ``whole``: whether an answer has come whole by now, False where it
        broke off, None where it was left; ``again``: whether the request can be sent twice; ``proves``: whether an
        answer tells how models are served, as no other endpoint's does; ``keyed``: whether it brings its caller's key,
        which a refusal for now may be of. Raises UpstreamUnavailable where none can be asked, else as ``begin`` and
        ``begun`` do.
        """
        async with AsyncExitStack() as stack:
            use_of = partial(_Use, self, proves=proves, keyed=keyed)
            use, answer = await self._answer(stack, session, begin, begun, chosen, use_of, again=again)
            del begin  # it knows the body, which is not kept while the answer comes
            yield answer
            use.end(whole(answer))

    async def _answer(
        self,
        stack: AsyncExitStack,
        session: str,
        begin: Callable[[Upstream], AbstractAsyncContextManager[T]],
        begun: Callable[[T], Awaitable[UpstreamError | None]],
        chosen: Callable[[str], object],
        use_of: Callable[[Replica], _Use],
        *,
        again: bool,
    ) -> tuple[_Use, T]:
        replica = self.choose(session)
        if replica is None:
            raise self._unavailable()
        self._count()
        tried: list[Replica] = []
        while True:
            tried.append(replica)
            chosen(replica.name)
            try:
                async with AsyncExitStack() as held:
                    use = held.enter_context(use_of(replica))
                    answer = await held.enter_async_context(begin(replica.upstream))
                    failure = await begun(answer)
                    use.begin(failure)
                    another = self._another(session, failure, tried) if failure and again else None
                    if another is None:
                        await stack.enter_async_context(held.pop_all())
                        return use, answer
            except UpstreamError as exc:
                may_go = again or isinstance(exc, UpstreamUnreachable)  # of which nothing was sent
                another = self._another(session, exc, tried) if may_go else None
                if another is None:
                    raise
            replica = another

    def _count(self) -> None:
        now = self.now()
        if now >= self._window_ends:
            self._window_ends, self._calls, self._retries = now + _WINDOW, 0, 0
            self._news = logging.WARNING
        self._calls += 1

    def _another(self, session: str, failure: UpstreamError, tried: Sequence[Replica]) -> Replica | None:
        """The replica that is asked after these, within the bounds of retries."""
        if not is_for_another(failure) or len(tried) > self._rules.retries:
            return None
        another = self.choose(session, tried)
        if another and self._retries >= _FREE + _SHARE * self._calls:
            log.log(self._news, "group %s: no retry, as too many of the last calls were retries", self.name)
            self._news = logging.DEBUG
            return None
        if another:
            self._retries += 1
            log.info(
                "group %s: %s is asked instead of %s: %s", self.name, another.name, tried[-1].name, in_words(failure)
            )
            self.told("retry", self.name, tried[-1].name)
        return another

    def heard(self, replica: Replica, failure: UpstreamError | None, *, trial: bool, keyed: bool) -> None:
        """A call has been answered, refused, or has failed; ``trial``: it was to show whether the replica is well;
        ``keyed``: it brought its caller's key.
        """
        if not self._watched:
            return
        now = self.now()
        if failure is None or not is_failure(failure):
            self._note(replica.well(trial=trial), replica, "it answers again")
        else:
            others = partial(self._has_others, replica)
            self._note(replica.failed(failure, now, trial=trial, others=others), replica, in_words(failure))
        is_callers = keyed and not replica.upstream.has_key
        if failure and not (is_callers and failure.status == 429):
            replica.pause(failure, now)

    def ended(self, replica: Replica, era: int, *, whole: bool) -> None:
        """An answer that had begun well has come whole, or has broken off."""
        if not self._watched:
            return
        if whole:
            replica.whole(era=era)
        else:
            news = replica.broke(self.now(), era=era, others=partial(self._has_others, replica))
            self._note(news, replica, "its answers break off")

    def _has_others(self, replica: Replica) -> bool:
        now = self.now()
        others = (other.closed_until <= now for other in self.replicas if other is not replica)
        return self._has_fallbacks or any(others)

    def _note(self, what: str, replica: Replica, why: str) -> None:
        if what:
            level = logging.WARNING if what == "ejected" else logging.INFO
            log.log(level, "group %s: %s is %s: %s", self.name, replica.name, what, why)
            self.told(what, self.name, replica.name)

    # --- health

    @property
    def is_checked(self) -> bool:
        """Whether the health of its replicas is asked for once in a while."""
        return self._watched and self._rules.interval > 0

    async def watch(self) -> None:
        """Checks on every replica, for ever."""
        await asyncio.gather(*map(self._watch, self.replicas))

    async def _watch(self, replica: Replica) -> None:
        while True:
            if replica.is_due(self.now()):
                fault = await replica.upstream.check(replica.health_path)
                news = replica.checked(fault, self.now(), others=partial(self._has_others, replica))
                self._note(news, replica, fault or "its health check is well")
            await asyncio.sleep(self._rules.interval)

    async def check(self) -> str | None:
        """None when one of its replicas is well, else why none is: by the last checks, where they are made anyhow."""
        if self.is_checked and all(replica.fault != "" for replica in self.replicas):
            there = [replica for replica in self.replicas if not replica.is_out] or self.replicas
            faults = [replica.fault or ("all are ejected" if replica.is_out else None) for replica in there]
        else:
            faults = list(await asyncio.gather(*(each.upstream.check(each.health_path) for each in self.replicas)))
        return None if None in faults else faults[0]


class _Use:
    """A call at a replica, counted as open. What it raises is told of the replica; ``proves`` and ``keyed``: as for
    ``Group.call``.
    """

    def __init__(self, group: Group, replica: Replica, *, proves: bool, keyed: bool) -> None:
        self._group, self._replica, self._proves, self._keyed = group, replica, proves, keyed
        self._trial, self._begun, self._is_well, self._era = replica.is_out, False, False, replica.era

    def begin(self, failure: UpstreamError | None) -> None:
        """Its answer has begun; ``failure``: what that is, though it can be told."""
        self._begun = True
        if self._proves:
            self._is_well = failure is None
            self._tell(failure)

    def end(self, whole: bool | None) -> None:
        """What has begun has come whole, or broken off; None for neither."""
        if self._is_well and whole is not None:
            self._group.ended(self._replica, self._era, whole=whole)

    def _tell(self, failure: UpstreamError | None) -> None:
        self._group.heard(self._replica, failure, trial=self._trial, keyed=self._keyed)
        self._trial = False

    def __enter__(self) -> _Use:
        self._replica.open += 1
        self._group.open += 1
        if self._trial:
            self._replica.begin_trial(self._group.now())
        return self

    def __exit__(self, _type: type[BaseException] | None, exc: BaseException | None, _at: TracebackType | None) -> None:
        self._replica.open -= 1
        self._group.open -= 1
        if isinstance(exc, UpstreamError):
            if not self._begun:
                self._tell(exc)
            elif is_failure(exc):
                self.end(False)
        if self._trial:
            self._replica.leave_trial()


def _failed_at(replica: Replica) -> float:
    return replica.failed_at


def _identity(urls: list[str]) -> str:
    """One upstream's URL as it is, so that what is known of it stays known; of several all of them, as one hash."""
    if len(urls) == 1:
        return urls[0]
    return "group:" + blake2b("\n".join(sorted(urls)).encode(), digest_size=16).hexdigest()
