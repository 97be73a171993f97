"""A create request with an idempotency key on its way out: its own turn, or what stands for the key already."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.routes.edge import ClientGone, attended, facts
from proxy.runs import KeyedRequest
from proxy.state import Run, Stored

REPLAYED = {"idempotent-replayed": "true"}
"""Says on an answer that it is not the first one for its key."""


class KeyedReply:
    """An ASGI answer. ``make``: begins the turn, whose key is held; ``join``: the answer of the one that stands for the
    key, None when that has come to nothing.
    """

    def __init__(
        self,
        key: KeyedRequest,
        make: Callable[[], Awaitable[ASGIApp]],
        join: Callable[[Stored | Run], Awaitable[ASGIApp | None]],
    ) -> None:
        self._key, self._make, self._join = key, make, join

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with attended(receive):
                app = await self._answer(facts(scope))
            app = app or await self._make()
        except BaseException as exc:
            await self._key.let_go()
            if not isinstance(exc, ClientGone):
                raise
            facts(scope)["left"] = True
            return
        await app(scope, receive, send)

    async def _answer(self, noted: dict[str, Any]) -> ASGIApp | None:
        """That of the response that stands for the key; None when this request is to make it."""
        while found := await self._key.found():
            if app := await self._join(found):
                noted.update(response=found.id, replayed=True)
                return app
        return None
