"""``/health``: this process lives. ``/ready``: it can serve, or what it lacks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from proxy.errors import StatecarError
from proxy.routes.edge import answer, facts
from proxy.routes.resources import Resource
from proxy.state import State
from proxy.upstream import Pool
from proxy.wire import flag


@dataclass(frozen=True)
class Health:
    """``stopping``: whether the server is on its way out. ``needs_store``: it serves nothing without one."""

    state: State
    pool: Pool
    stopping: Callable[[], bool]
    needs_store: bool = True

    def routes(self, prefix: str) -> list[Resource]:
        return [Resource(f"{prefix}/health", GET=self.health), Resource(f"{prefix}/ready", GET=self.ready)]

    async def health(self, request: Request) -> Response:
        facts(request.scope)["probe"] = True
        return answer({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """``?upstream=false`` leaves the upstream out: for replicas whose model server is a matter of its own."""
        facts(request.scope)["probe"] = True
        asks = flag([("upstream", "true"), *request.query_params.multi_items()], "upstream")
        store, upstream = await asyncio.gather(self._store(), self.pool.check() if asks else _unasked())
        server = "stopping" if self.stopping() else None
        lacking = {"store": store, "upstream": upstream, "server": server}
        told = {name: fault or "ok" for name, fault in lacking.items()} | ({} if asks else {"upstream": "not asked"})
        if upstream or server or (store and self.needs_store):
            return answer({"status": "not ready", **told}, 503)
        if store:
            return answer({"status": "degraded", **told})
        return answer({"status": "ready", **told})

    async def _store(self) -> str | None:
        try:
            await self.state.ping()
        except StatecarError as exc:
            return exc.message
        return None


async def _unasked() -> None:
    return None
