"""Asking an upstream: a refusal that other manners cure is asked again before anybody hears of it (wire §11.1)."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from proxy import codec
from proxy.errors import UpstreamError
from proxy.translate.dialects import Dialect, remedy
from proxy.turn.services import Caller, Services
from proxy.upstream import Reply, Upstream

_REMEDIES = 3
"""Most remedies that are tried for one call."""


async def asked(
    stack: AsyncExitStack,
    services: Services,
    caller: Caller,
    upstream: Upstream,
    model: str,
    written: Callable[[Dialect], dict[str, Any]],
) -> Reply:
    """The upstream's answer, open as long as ``stack`` is. ``written``: the chat body in a dialect.

    Raises as ``Upstream.open`` does, when nothing more can be done about it.
    """
    dialect = await services.manners.of(upstream, model)
    for tried in range(_REMEDIES + 1):
        body = written(dialect)
        # fresh for each call: vLLM makes it the call's id
        headers = [*caller.headers, ("x-request-id", f"req_{uuid.uuid4().hex}")]
        try:
            reply = await stack.enter_async_context(
                upstream.open(codec.dumps(body), headers, stream=body.get("stream", False))
            )
        except UpstreamError as exc:
            cured = remedy(exc, dialect)
            if cured is None or tried == _REMEDIES:
                raise
            dialect = cured
        else:
            if tried:
                await services.manners.learn(upstream, model, dialect)
            return reply
    raise AssertionError("the last try returns or raises")
