"""One upstream call as events: what its chunks become, and when it is over (wire §2.6, §11.5, §11.7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from proxy.errors import UpstreamError
from proxy.translate.items import Event
from proxy.translate.reply import is_error
from proxy.translate.stream import ResponseStream
from proxy.upstream import Reply

log = logging.getLogger("statecar.turn")

USAGE_WAIT = 5.0
"""Seconds an upstream gets to send its usage after the finish reason (wire §11.5)."""


async def events_of(reply: Reply, stream: ResponseStream) -> AsyncGenerator[list[Event], None]:
    """The events of an upstream's answer, a batch per read. Raises UpstreamError for one that fails."""
    async with aclosing(reply.batches()) as batches:
        async for batch in batches:
            yield _fed(stream, batch)
            if stream.failure and stream.finish_reason is None:
                raise stream.failure
            if stream.finish_reason is not None:
                yield await _after_finish(stream, batches)
                return


def _fed(stream: ResponseStream, batch: list[dict[str, Any]]) -> list[Event]:
    """The events of one read. The stream begins with its first payload, unless that is an error (wire §2.6)."""
    events: list[Event] = []
    for chunk in batch:
        if not stream.started and not is_error(chunk):
            events += stream.start()
        events += stream.feed(chunk)
        if stream.failure:
            break
    return events


async def _after_finish(stream: ResponseStream, batches: AsyncIterator[list[dict[str, Any]]]) -> list[Event]:
    """Reads on for the usage, which may come after the finish reason, or never."""
    events: list[Event] = []
    try:
        async with asyncio.timeout(USAGE_WAIT):
            async for batch in batches:
                events += _fed(stream, batch)
    except TimeoutError:
        log.warning("the upstream neither ended its stream nor sent usage within %s s", USAGE_WAIT)
    except UpstreamError as exc:
        log.warning("the upstream broke off after its finish reason: %d, %s", exc.status, exc.code)
    return events
