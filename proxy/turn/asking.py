"""Asking an upstream: a refusal that other manners cure is asked again before anybody hears of it (wire §11.1)."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from proxy import codec
from proxy.errors import UpstreamError
from proxy.translate.dialects import Dialect, remedy
from proxy.turn.manners import Headers
from proxy.turn.services import Caller, Services
from proxy.upstream import Reply, Upstream

log = logging.getLogger("statecar.turn")

_REMEDIES = 4
"""Most remedies that are tried for one call."""


async def asked(
    stack: AsyncExitStack,
    services: Services,
    caller: Caller,
    upstream: Upstream,
    model: str,
    written: Callable[[Dialect], dict[str, Any]],
) -> Reply:
    """The upstream's answer, open as long as ``stack`` is. ``written``: the chat body in a dialect, asked for each try.

    Raises as ``Upstream.open`` does, when nothing more can be done about it.
    """
    dialect = await services.manners.of(upstream, model, caller.headers)
    reply, better = await put(stack, upstream, dialect, caller.headers, written)
    if better != dialect:
        await services.manners.learn(upstream, model, better)
    return reply


async def put(
    stack: AsyncExitStack,
    upstream: Upstream,
    dialect: Dialect,
    headers: Headers,
    written: Callable[[Dialect], dict[str, Any]],
) -> tuple[Reply, Dialect]:
    """(the upstream's answer, the dialect in which it was given). Raises as ``Upstream.open`` does."""
    body = dialect.trimmed(written(dialect))
    for tried in range(_REMEDIES + 1):
        # fresh for each call: vLLM makes it the call's id
        pairs = [*headers, ("x-request-id", f"req_{uuid.uuid4().hex}")]
        try:
            opened = upstream.open(codec.dumps(body), pairs, stream=body.get("stream", False))
            return await stack.enter_async_context(opened), dialect
        except UpstreamError as exc:
            cured = remedy(exc, dialect)
            if cured is None or tried == _REMEDIES:
                raise
            refused, dialect = body, cured
            body = cured.trimmed(written(cured))
            if body == refused:  # the remedy is for something that was not sent
                raise
            log.info("upstream %s refuses and is asked again in other words: %s", upstream.name, exc.message)
    raise AssertionError("the last try returns or raises")
