"""``/metrics``: what this server has counted and measured, for Prometheus."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from proxy.observe import Metrics
from proxy.routes.edge import facts
from proxy.routes.resources import Resource


@dataclass(frozen=True)
class Scrape:
    """The endpoint that Prometheus asks. Like the other probes it wants no key."""

    metrics: Metrics
    one: asyncio.Lock = field(default_factory=asyncio.Lock)

    def routes(self, prefix: str) -> list[Resource]:
        return [Resource(f"{prefix}/metrics", GET=self.scrape)]

    async def scrape(self, request: Request) -> Response:
        """Beside the loop: with many models or workers it takes tens of milliseconds, and streams go on.

        One after the other: several at once would leave the streams, and the look-ups of names, few turns.
        """
        facts(request.scope)["probe"] = True
        wanted = request.headers.get("accept", ""), request.headers.get("accept-encoding", "")
        async with self.one:
            self.metrics.settle()
            body, headers = await asyncio.to_thread(self.metrics.exposition, *wanted)
        return Response(body, headers=headers)
