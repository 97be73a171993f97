"""What a turn needs that goes on with a run: what was kept of it, and patience with a store that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from time import perf_counter
from types import MappingProxyType
from typing import Any, TypeVar

from proxy import codec
from proxy.errors import InvalidRequest, RunLost, StatecarError, StoreUnavailable
from proxy.grants import Grant
from proxy.seal import HEADERS, Sealer
from proxy.state import Item, Run
from proxy.translate.told import Kept, Telling
from proxy.turn.context import Context, context_of
from proxy.turn.services import KEY, Caller, Services

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds a run waits for a store that is away, before its end is left to another process."""

_PAUSE = 0.25
_ITEM, _ROUNDS = "item ", "rounds"
_UNKEPT = "unkept"
_REQUEST = "x-request-id"


@dataclass(frozen=True)
class Resumed:
    """A run that a turn goes on with. ``telling``: what was told of it; ``end``: why it must end, if it must."""

    run: Run
    telling: Telling
    end: StatecarError | None


async def context_again(run: Run, services: Services, caller: Caller, stack: AsyncExitStack, *, ends: bool) -> Context:
    """Reads what a run continues from. ``ends``: it is to end, and does not wait for a conversation: it adds nothing.

    Raises as ``context_of`` does.
    """

    async def read(*, storing: bool, patient: bool) -> Context:
        async with AsyncExitStack() as held:
            context = await context_of(run.request, services, caller, held, storing=storing, run=run, patient=patient)
            await stack.enter_async_context(held.pop_all())
        return context

    try:
        return await read(storing=True, patient=not ends)
    except InvalidRequest as exc:
        if not ends or exc.code != "conversation_locked":
            raise
    return await read(storing=False, patient=False)


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Asks the store until it answers. Raises RunLost when it stays away; what it answers is raised as it is."""
    away_since: float | None = None
    while True:
        try:
            return await ask()
        except StoreUnavailable:
            now = perf_counter()
            away_since = now if away_since is None else away_since
            if now - away_since > PATIENCE:
                raise RunLost("The state store stays away.") from None
        await asyncio.sleep(_PAUSE)


def kept_headers(caller: Caller, sealer: Sealer | None) -> str:
    """What a run keeps of its caller: headers and the request's id; the key sealed or, where nothing can seal
    it, only that there was one.
    """
    plain = [list(pair) for pair in caller.headers if pair[0] != KEY]
    plain.append([_REQUEST, caller.request_id])
    secret = [value for name, value in caller.headers if name == KEY]
    for value in secret:
        plain.append([KEY, sealer.seal(value, HEADERS, caller.tenant)] if sealer else [_UNKEPT, KEY])
    return codec.dumps(plain).decode()


def caller_of(run: Run, sealer: Sealer | None) -> Caller | None:
    """Who asked for a run; None where the caller's key was not kept, or cannot be read."""
    headers: list[tuple[str, str]] = []
    request_id = ""
    for name, value in codec.loads(run.headers):
        if name == KEY:
            value = sealer.open(value, HEADERS, run.tenant) if sealer else None
        if name == _UNKEPT or value is None:
            return None
        if name == _REQUEST:
            request_id = value
        else:
            headers.append((name, value))
    return Caller(run.tenant, headers, request_id, principal=run.owner, grant=Grant(quota=run.quota))


def kept_values(
    items: Mapping[int, Item] = MappingProxyType({}),
    rounds: int | None = None,
    last: int = 0,
    usages: Sequence[Any] = (),
) -> dict[str, Any]:
    """What is kept beside a run, by the names it is kept under."""
    values: dict[str, Any] = {f"{_ITEM}{index}": item for index, item in items.items()}
    return values if rounds is None else {**values, _ROUNDS: [rounds, last, *usages]}


def kept_of(run: Run) -> Kept:
    """The same, as it was kept."""
    rounds, last, *usages = run.kept.get(_ROUNDS, [0, 0])
    items = {int(name.removeprefix(_ITEM)): item for name, item in run.kept.items() if name.startswith(_ITEM)}
    return Kept(items, rounds, last, usages)
