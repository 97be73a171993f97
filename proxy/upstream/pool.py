"""All groups of upstreams, and which of them serves a model (ADR 0019)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import translate

from proxy import upstreams
from proxy.errors import ModelNotFound, NotFound
from proxy.settings import Settings
from proxy.upstream.address import Address
from proxy.upstream.calls import Heard, unheard
from proxy.upstream.client import Followed, Upstream
from proxy.upstream.group import Group, Rules, Told, untold
from proxy.upstream.replica import Replica
from proxy.upstream.target import Target


@dataclass(frozen=True)
class Served:
    """A group, and the models it serves: ``models``, shell patterns, and those that have other names for clients."""

    group: Group
    models: tuple[str, ...] = ("*",)
    aliases: tuple[tuple[str, str], ...] = ()
    fallbacks: tuple[upstreams.Fallback, ...] = ()


class Pool:
    """What is served, first match first. Whoever asks picks anew for each turn; a turn's calls share its target.

    ``served`` says what each group offers; ``targets`` gives one target a group, for what concerns all of it (its list
    of models); ``pick(model, session).forward`` passes a request on. ``Heard`` is told of every request to a replica,
    by its name, ``Told`` of what groups do; the replicas that are ejected are a count of the latter.
    """

    def __init__(self, served: Sequence[Served]) -> None:
        self.served = tuple(served)
        self._by_name = {each.group.name: each for each in served}
        self._looked = [(dict(each.aliases), _matcher(each.models), each) for each in served]
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_single(self) -> bool:
        """Whether one group serves whatever is asked for, by the name it is asked by."""
        return len(self.served) == 1 and "*" in self.served[0].models and not self.served[0].aliases

    def pick(self, model: str, session: str = "") -> Target:
        """What to ask for a model; "" for what names none, which is the first group's. ``session``: a text whose calls
        should meet the same replica's cache, "" for none. Raises ModelNotFound for a model that no group serves.
        """
        served, name = self._found(model)
        if not served.fallbacks:
            return Target(served.group, name, session)
        fallbacks = tuple(self._fallback(fallback, model, name) for fallback in served.fallbacks)
        return Target(served.group, name, session, fallbacks)

    def serves(self, model: str) -> Served | None:
        """Who serves a model, by the name that clients use."""
        try:
            return self._found(model)[0]
        except ModelNotFound:
            return None

    def targets(self) -> list[Target]:
        """One for each group, which stands for no model of it."""
        return [Target(each.group, "", "") for each in self.served]

    async def check(self) -> str | None:
        """None when every group can answer, or a fallback for it; else why one cannot, and which, of several."""
        found = await asyncio.gather(*(each.group.check() for each in self.served))
        faults = dict(zip(self._by_name, found, strict=True))
        for name, each in self._by_name.items():
            if faults[name] and all(faults[fallback.group] for fallback in each.fallbacks):
                return faults[name] if len(faults) == 1 else f"{name}: {faults[name]}"
        return None

    def follow(self, followed: Followed | None) -> None:
        """From now on every call of a replica is followed."""
        for each in self.served:
            for replica in each.group.replicas:
                replica.upstream.followed = followed

    def begin(self) -> None:
        """Starts checking on replicas."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(each.group.watch()) for each in self.served if each.group.is_checked]

    async def aclose(self) -> None:
        """Close every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for each in self.served:
            for replica in each.group.replicas:
                await replica.upstream.aclose()

    def _found(self, model: str) -> tuple[Served, str]:
        for aliases, matches, served in self._looked:
            if model in aliases:
                return served, aliases[model]
            if matches is None or not model or matches(model):
                return served, model
        raise ModelNotFound(model)

    def _fallback(self, fallback: upstreams.Fallback, asked: str, model: str) -> tuple[Group, str]:
        served = self._by_name[fallback.group]
        aliases = dict(served.aliases)
        return served.group, fallback.model or aliases.get(asked) or aliases.get(model) or model


def open_pool(settings: Settings, heard: Heard = unheard, told: Told = untold) -> Pool:
    """The pool that the options describe. ``heard``: of every request to a replica; ``told``: of what groups do.

    Raises ValueError for a URL or a path that cannot be used.
    """
    rules = Rules(
        affinity=settings.upstream_affinity == "on",
        load_factor=settings.upstream_load_factor,
        retries=settings.upstream_retries,
        interval=settings.upstream_health_interval,
    )
    if not settings.upstreams:
        alone = upstreams.Replica(settings.upstream, settings.upstream_api_key)
        given: tuple[upstreams.Group, ...] = (upstreams.Group("default", (alone,)),)
    else:
        given = settings.upstreams
    return Pool([_served(each, settings, rules, heard, told) for each in given])


def _served(given: upstreams.Group, settings: Settings, rules: Rules, heard: Heard, told: Told) -> Served:
    replicas = [_replica(replica, settings, heard) for replica in given.replicas]
    if len({replica.name for replica in replicas}) < len(replicas):  # paths of one host: metrics tell each
        for replica in replicas:
            replica.name = replica.upstream.name = replica.upstream.base_url.partition("://")[2]
    has_fallbacks = bool(given.fallbacks)
    kind = given.kind or settings.upstream_kind
    group = Group(given.name, replicas, rules, kind=kind, has_fallbacks=has_fallbacks, told=told)
    return Served(group, given.models, given.aliases, given.fallbacks)


def _replica(given: upstreams.Replica, settings: Settings, heard: Heard) -> Replica:
    upstream = Upstream(
        given.url,
        api_key=given.api_key or settings.upstream_api_key or None,
        headers=given.headers,
        connect_timeout=given.connect_timeout or settings.upstream_connect_timeout,
        first_byte_timeout=given.first_byte_timeout or settings.upstream_first_byte_timeout,
        idle_timeout=given.idle_timeout or settings.upstream_idle_timeout,
        heard=heard,
    )
    if given.health_path:
        _check_path(given)
    return Replica(
        upstream,
        limit=given.max_requests,
        health_path=given.health_path,
        after=settings.upstream_eject_after,
        seconds=settings.upstream_eject_seconds,
    )


def _check_path(given: upstreams.Replica) -> None:
    try:
        Address(given.url).target(given.health_path.encode())
    except NotFound as exc:
        raise ValueError(f"health_path={given.health_path!r}: {exc.message}") from None


def _matcher(patterns: tuple[str, ...]) -> Callable[[str], object] | None:
    return None if "*" in patterns else re.compile("|".join(map(translate, patterns))).match
