"""One upstream call as events: what its chunks become, and when it is over (wire §2.6, §11.5, §11.7)."""

from __future__ import annotations

import asyncio
import logging

from proxy.errors import UpstreamError
from proxy.translate.items import Event
from proxy.translate.stream import ResponseStream
from proxy.upstream import Reply

log = logging.getLogger("statecar.turn")

USAGE_WAIT = 5.0
"""Seconds an upstream gets to send its usage after the finish reason (wire §11.5)."""


class Answer:
    """An upstream's answer as events, read by whoever wants the next of them."""

    def __init__(self, reply: Reply, stream: ResponseStream) -> None:
        self._reply, self._stream = reply, stream
        self._over = False

    async def read(self) -> list[Event]:
        """The events of a read, as soon as one gave any; none at the end. Raises UpstreamError for one that fails."""
        reply, stream = self._reply, self._stream
        while not self._over:
            if stream.finish_reason is not None:
                self._over = True
                return await self._after_finish()
            if stream.failure:
                raise stream.failure
            batch = await reply.read()
            self._over = not batch
            if events := stream.feed_all(batch):
                return events
        return []

    async def _after_finish(self) -> list[Event]:
        """Reads on for the usage, which may come after the finish reason, or never."""
        events: list[Event] = []
        try:
            async with asyncio.timeout(USAGE_WAIT):
                while batch := await self._reply.read():
                    events += self._stream.feed_all(batch)
        except TimeoutError:
            log.warning("the upstream neither ended its stream nor sent usage within %s s", USAGE_WAIT)
        except UpstreamError as exc:
            log.warning("the upstream broke off after its finish reason: %d, %s", exc.status, exc.code)
        return events
