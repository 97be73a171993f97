"""How each upstream wants to be asked, by model: its kind's dialect, and what its refusals have taught."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.errors import StoreUnavailable
from proxy.settings import Settings
from proxy.state import Lessons
from proxy.translate.dialects import Dialect, Lesson, for_kind, kind_by_host, lesson_of, taught
from proxy.upstream import Target, by_asking
from proxy.waits import Waiting

log = logging.getLogger("statecar.turn")

ASK_AGAIN = 3.0
"""Seconds until an upstream that could not tell its kind is asked again, twice as many each time up to ``_SELDOM``."""

COUNT_AGAIN = 30.0
"""Seconds for which a tokenizer that kept silent is not asked for a turn's sake."""

LOOK_AGAIN = 60.0
"""Seconds until the store is asked again what others have learnt."""

_SELDOM = 30.0
_ANOTHER_KEY = 1.0  # seconds between two questions with keys
_KEYS = 1000  # failed keys remembered
_SHOWN = 128  # characters of a model's name in the log: it is any text of a caller
_PAIRS, _LONGEST_NAME = 1000, 256  # lessons remembered, and for which models: their names are any text of callers
_PATIENCE = 0.3  # seconds a turn waits for the store
_QUIET = 10.0  # seconds without a look after the store has failed

Headers = Sequence[tuple[str, str]]


class Manners:
    """The dialect for an upstream and a model."""

    def __init__(self, settings: Settings, lessons: Lessons) -> None:
        self._settings, self._lessons = settings, lessons
        self._kinds: dict[str, _Kind] = {}
        self._dialects: dict[str, Dialect] = {}
        self._learnt: OrderedDict[tuple[str, str], _Learnt] = OrderedDict()
        self._quiet_until = 0.0
        self._tokenizer_at: dict[str, float] = {}

    def begin(self, upstreams: Sequence[Target]) -> None:
        """Starts finding out what the upstreams are; nobody waits for it but their first turns."""
        for upstream in upstreams:
            self._kind(upstream).ask(upstream, ())

    async def of(self, upstream: Target, model: str, headers: Headers = ()) -> Dialect:
        """The dialect to ask this upstream for this model in. ``headers``: the caller's, for its key.

        Waits for a question that is under way, 2 s at most, but not for an upstream that kept silent when it was last
        asked: while the upstream's kind is unknown it is ``generic``.
        """
        plain = self._profile(await self._kind(upstream).wait(upstream, headers))
        return taught(plain, await self._lesson(upstream.identity, model))

    async def learn(self, upstream: Target, model: str, dialect: Dialect) -> None:
        """Remembers a dialect in which the upstream has answered after it had refused another, for every replica."""
        lesson = lesson_of(self._profile(dialect.kind), dialect)
        shown = model if len(model) <= _SHOWN else f"{model[:_SHOWN]}..."
        log.warning("upstream %s wants other manners for model %r: from now on %s", upstream.name, shown, lesson)
        self._remember((upstream.identity, model), lesson)
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._lessons.put(upstream.identity, model, lesson)
        except (StoreUnavailable, TimeoutError):
            log.warning("only this process knows, as the store does not take it")

    def may_count(self, upstream: Target) -> bool:
        """Whether the upstream's tokenizer is worth a turn's time: it has not kept silent a moment ago."""
        return asyncio.get_running_loop().time() >= self._tokenizer_at.get(upstream.identity, 0.0)

    def cannot_count(self, upstream: Target) -> None:
        """The upstream's tokenizer kept silent."""
        self._tokenizer_at[upstream.identity] = asyncio.get_running_loop().time() + COUNT_AGAIN

    async def close(self) -> None:
        """Ends the questions under way."""
        for kind in self._kinds.values():
            await kind.close()

    def _profile(self, kind: str) -> Dialect:
        if kind not in self._dialects:
            self._dialects[kind] = for_kind(kind, self._settings)
        return self._dialects[kind]

    def _kind(self, upstream: Target) -> _Kind:
        kind = self._kinds.get(upstream.group)
        if kind is None:
            known = kind_by_host(upstream.base_url) if upstream.kind == "auto" else upstream.kind
            if known and upstream.kind == "auto":
                log.info("upstream %s is taken for %s, by its host name", upstream.name, known)
            kind = self._kinds[upstream.group] = _Kind(known, own_key=upstream.own_key)
        return kind

    async def _lesson(self, identity: str, model: str) -> Lesson:
        """What is known of the pair, looked up in the store once in a while. Never raises, never waits long."""
        pair, now = (identity, model), asyncio.get_running_loop().time()
        known = self._learnt.get(pair)
        if known and (now < known.look_at or now < self._quiet_until):
            self._learnt.move_to_end(pair)
            return known.lesson if now < known.ends_at else {}
        if now < self._quiet_until:
            return {}
        if known:
            known.look_at = now + LOOK_AGAIN  # others go on with what is known
        try:
            async with asyncio.timeout(_PATIENCE):
                lesson = await self._lessons.get(identity, model)
        except (StoreUnavailable, TimeoutError):
            self._quiet_until = now + _QUIET
            return known.lesson if known and now < known.ends_at else {}
        self._remember(pair, lesson)
        return lesson

    def _remember(self, pair: tuple[str, str], lesson: Lesson) -> None:
        if len(pair[1]) > _LONGEST_NAME:
            return  # looked up each time
        now = asyncio.get_running_loop().time()
        self._learnt[pair] = _Learnt(lesson, now + LOOK_AGAIN, now + self._settings.lesson_ttl)
        self._learnt.move_to_end(pair)
        if len(self._learnt) > _PAIRS:
            self._learnt.popitem(last=False)


@dataclass
class _Learnt:
    """A lesson as this process knows it: when to look for a newer one, and when it is too old without one."""

    lesson: Lesson
    look_at: float
    ends_at: float


class _Kind:
    """The kind of one upstream, asked for by one task at a time until it is known.

    ``own_key``: statecar has a key for it, which is sent instead of the callers'.
    """

    def __init__(self, known: str | None, *, own_key: bool) -> None:
        self._known, self._own_key = known, own_key
        self._task: asyncio.Task[None] | None = None
        self._pause, self._again_at, self._with_key_at = ASK_AGAIN, 0.0, 0.0
        self._silent = self._needs_key = False
        self._failed: set[int] = set()  # hashes of keys

    def ask(self, upstream: Target, headers: Headers) -> None:
        """Begins to ask, unless that is under way or was done a moment ago.

        An upstream that wants a key, which statecar may not have, is asked again with each caller's that comes.
        """
        now = asyncio.get_running_loop().time()
        if self._known or (self._task and not self._task.done()):
            return
        key = "" if self._own_key else _key_in(headers)
        untried = self._needs_key and key and hash(key) not in self._failed
        if now >= self._again_at or (untried and now >= self._with_key_at):
            self._again_at = now + self._pause
            self._pause = min(2 * self._pause, _SELDOM)
            if key:
                self._with_key_at = now + _ANOTHER_KEY
            self._task = asyncio.create_task(self._ask(upstream, headers, key))

    async def wait(self, upstream: Target, headers: Headers) -> str:
        """The kind, as far as it is known when the question under way is answered."""
        self.ask(upstream, headers)
        if self._task and not self._task.done() and not self._silent:
            with Waiting("upstream"):
                await asyncio.wait([self._task])  # bounded by the question's own limit
        return self._known or "generic"

    async def close(self) -> None:
        if self._task and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _ask(self, upstream: Target, headers: Headers, key: str) -> None:
        found = await by_asking(upstream, headers)
        kind = found.kind or "generic"
        if found.final:
            self._known = kind
        self._silent, self._needs_key = found.silent, found.needs_key
        if found.needs_key and key and len(self._failed) < _KEYS:
            self._failed.add(hash(key))
        log.info("upstream %s is taken for %s: %s%s", upstream.name, kind, found.how, "" if found.final else ", so far")


def _key_in(headers: Headers) -> str:
    return next((value for name, value in headers if name.lower() == "authorization"), "")
