"""Asking an upstream: a refusal that other manners cure is asked again before anybody hears of it (wire §11.1)."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from proxy import codec
from proxy.errors import UpstreamError
from proxy.translate.dialects import Dialect, Remedy, lesson_of, remedies
from proxy.turn.context import Context
from proxy.turn.manners import Headers
from proxy.turn.services import Caller, Services
from proxy.upstream import Reply, Upstream

log = logging.getLogger("statecar.turn")

_REMEDIES = 6
"""Most remedies that are tried for one call."""

Written = Callable[[Dialect], dict[str, Any]]


async def asked(stack: AsyncExitStack, services: Services, caller: Caller, context: Context, written: Written) -> Reply:
    """The upstream's answer, open as long as ``stack`` is. ``written``: the chat body in a dialect, asked for each try.

    Raises as ``Upstream.open`` does, when nothing more can be done about it.
    """
    plain = context.dialect
    reply, tries = await put(stack, context.upstream, plain, caller.headers, written)
    context.dialect = tries.dialect
    if tries.last and (better := tries.last(plain)) != plain:
        await services.manners.learn(context.upstream, context.model, better)
    return reply


async def put(
    stack: AsyncExitStack,
    upstream: Upstream,
    dialect: Dialect,
    headers: Headers,
    written: Written,
) -> tuple[Reply, Tries]:
    """(the upstream's answer, how it was asked in the end). Raises as ``Upstream.open`` does."""
    tries = Tries(dialect, written)
    for left in reversed(range(_REMEDIES + 1)):
        # fresh for each call: vLLM makes it the call's id
        pairs = [*headers, ("x-request-id", f"req_{uuid.uuid4().hex}")]
        try:
            opened = upstream.open(codec.dumps(tries.body), pairs, stream=tries.body.get("stream", False))
            return await stack.enter_async_context(opened), tries
        except UpstreamError as exc:
            if not (left and tries.refused(exc)):
                raise
            changed = lesson_of(tries.kept, tries.dialect)  # not the message: it may repeat what the caller wrote
            log.info("upstream %s answers %d and is asked again with %s", upstream.name, exc.status, changed)
    raise AssertionError("the last try returns or raises")


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
