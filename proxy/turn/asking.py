"""Asking an upstream: a refusal that other manners cure is asked again before anybody hears of it (wire §11.1)."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from proxy import codec
from proxy.errors import UpstreamError
from proxy.translate.dialects import Dialect, Remedy, lesson_of, remedies
from proxy.turn.context import Context
from proxy.turn.manners import Headers
from proxy.turn.services import Caller, Services
from proxy.upstream import Reply, Target, Upstream

log = logging.getLogger("statecar.turn")

_REMEDIES = 6
"""Most remedies that are tried for one call."""

_LONGEST = 119
"""Characters of a request's id that its calls' ids begin with: with 9 more they are 128, as long as any id."""

Written = Callable[[Dialect], dict[str, Any]]


async def asked(
    stack: AsyncExitStack,
    services: Services,
    caller: Caller,
    context: Context,
    written: Written,
    *,
    stays: bool = False,
) -> Reply:
    """The upstream's answer, open as long as ``stack`` is. ``written``: the chat body in a dialect, asked for each try;
    ``stays``: it is for this group alone, as another model would not go on as this one has begun.

    Raises as ``Upstream.open`` does, when nothing more can be done about it.
    """
    plain, session = context.dialect, context.upstream.session
    headers = services.sessions.named(caller.headers, session)
    written = services.sessions.told(written, caller.tenant, "" if context.alone else session)
    while True:
        upstream = context.upstream
        try:
            reply, tries = await put(stack, upstream, plain, headers, written, caller.request_id, context.model)
        except UpstreamError as exc:
            if stays or not await fell_back(services, caller, context, exc):
                raise
            plain = context.dialect
        else:
            break
    context.dialect = tries.dialect
    if tries.last and (better := tries.last(plain)) != plain:
        await services.manners.learn(context.upstream, context.model, better)
    return reply


async def fell_back(services: Services, caller: Caller, context: Context, failure: UpstreamError) -> bool:
    """Whether there is a group to ask instead; the context is then for that one."""
    group, instead = context.upstream.group, context.upstream.instead(failure)
    if instead is None:
        return False
    log.warning("group %s fails with %d: group %s is asked", group, failure.status, instead.group)
    context.upstream, context.model = instead, instead.model
    context.dialect = await services.manners.of(instead, instead.model, caller.headers)
    return True


async def put(
    stack: AsyncExitStack,
    upstream: Upstream | Target,
    dialect: Dialect,
    headers: Headers,
    written: Written,
    request_id: str = "",
    model: str = "",
) -> tuple[Reply, Tries]:
    """(the upstream's answer, how it was asked in the end). Raises as ``Upstream.open`` does.

    ``request_id``: what the ids of the calls begin with; "" for a new one. ``model``: its name upstream, "" for the one
    that is written.
    """
    begin = request_id[:_LONGEST] or f"req_{secrets.token_hex(16)}"
    tries = Tries(dialect, named(written, model) if model else written)
    for left in reversed(range(_REMEDIES + 1)):
        id_ = f"{begin}-{secrets.token_hex(4)}"  # its own for each call: vLLM makes it the call's id
        opened = upstream.open(
            codec.dumps(tries.body), [*headers, ("x-request-id", id_)], stream=tries.body.get("stream", False)
        )
        began = time.perf_counter()
        try:
            reply = await stack.enter_async_context(opened)
        except UpstreamError as exc:
            _note(upstream, dialect, id_, began, exc.status)
            if not (left and tries.refused(exc)):
                raise
            changed = lesson_of(tries.kept, tries.dialect)  # not the message: it may repeat what the caller wrote
            log.info("upstream %s answers %d and is asked again with %s", upstream.name, exc.status, changed)
        else:
            _note(upstream, dialect, id_, began, reply.status)
            return reply, tries
    raise AssertionError("the last try returns or raises")


def named(written: Written, model: str) -> Written:
    """The same bodies, that name the model as the upstream knows it."""

    def renamed(dialect: Dialect) -> dict[str, Any]:
        chat = written(dialect)
        return chat if chat["model"] == model else {**chat, "model": model}

    return renamed


def _note(upstream: Upstream | Target, dialect: Dialect, id_: str, began: float, status: int) -> None:
    """A line for each call. ``status``: of its answer, or of the error that its failure becomes."""
    if log.isEnabledFor(logging.DEBUG):
        told = {"upstream": upstream.name, "kind": dialect.kind, "status": status, "call": id_}
        ms = round((time.perf_counter() - began) * 1000, 1)
        log.debug("upstream call", extra={"fields": told | {"first_ms": ms}})


class Tries:
    """One request in changing dialects: to the one that was refused, ``kept``, one remedy is added at a time.

    A remedy is kept when the next refusal does not ask for it any more, else dropped for the next one, and none is
    tried twice: a refusal may repeat the caller's own words, which may name anything. ``last``: the remedy that
    ``dialect`` has and ``kept`` has not; an answer proves that this one was needed, and no other.
    """

    def __init__(self, dialect: Dialect, written: Written) -> None:
        self.dialect = self.kept = dialect
        self.last: Remedy | None = None
        self.body = self._kept_body = dialect.trimmed(written(dialect))
        self._written = written
        self._left: list[Remedy] = []
        self._tried: set[Remedy] = set()

    def refused(self, error: UpstreamError) -> bool:
        """Goes on to the next remedy; False when there is none. Raises as ``written`` does."""
        if self.last is None or self.last not in remedies(error, self.kept, self._kept_body):
            self.kept, self._kept_body = self.dialect, self.body
            self._left = [each for each in remedies(error, self.kept, self._kept_body) if each not in self._tried]
        while self._left:
            self.last = self._left.pop(0)
            self._tried.add(self.last)
            self.dialect = self.last(self.kept)
            self.body = self.dialect.trimmed(self._written(self.dialect))
            if self.body != self._kept_body:  # else the remedy is for something that was not sent
                return True
        return False
