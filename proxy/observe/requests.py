"""Every request seen from outside: its id, how it ended and when. What is told of it is the observers' affair."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.observe.logs import at_work_on

CLIENT_LEFT = 499
"""The status noted for a client that left before its answer."""

UPGRADED = 101
"""The status noted for a WebSocket that was taken."""

WEBSOCKET = "WEBSOCKET"
"""What stands for the method of a WebSocket, and of each request that came over one."""

_STARTS = ("http.response.start", "websocket.http.response.start", "websocket.accept")
_GIVEN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")


@dataclass(frozen=True)
class Finished:
    """A request that is over. ``first``: seconds until its status line, None when none was sent; ``whole``: until the
    end. ``facts``: what the endpoints noted of it; those of its turn under ``turn``.
    """

    id: str
    method: str
    path: str
    status: int
    first: float | None
    whole: float
    facts: dict[str, Any]


Observer = Callable[[Finished], None]


class Observed:
    """Outermost: gives every request its id, puts it on our own answers, and tells the observers when all is done.

    Endpoints add to ``scope["statecar"]``; an answer marked ``passed_on`` there keeps its headers as they came. What
    follows the head of an answer need not come through here: a stream's events go to ``scope["statecar.send"]``.
    """

    def __init__(self, app: ASGIApp, observers: Sequence[Observer]) -> None:
        self._app, self._observers = app, observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        facts: dict[str, Any] = {"request_id": request_id}
        scope["statecar"], scope["statecar.send"] = facts, send
        at_work_on(request_id)  # to the end of the task: the server's lines about this request come last
        began = time.perf_counter()
        first: float | None = None
        status = CLIENT_LEFT

        async def watched(message: Message) -> None:
            nonlocal status, first
            if message["type"] in _STARTS:
                status, first, facts["begun"] = message.get("status", UPGRADED), time.perf_counter() - began, True
                if not facts.get("passed_on"):
                    headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                    message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = 500 if first is None else status  # what the server answers then
            raise
        finally:
            del scope["statecar.send"]  # it knows the scope: a cycle would keep all of the request for the collector
            whole = time.perf_counter() - began
            ended = CLIENT_LEFT if facts.get("left") else status
            finished = Finished(request_id, scope.get("method", WEBSOCKET), scope["path"], ended, first, whole, facts)
            for tell in self._observers:
                tell(finished)


def _request_id(scope: Scope) -> str:
    """The caller's own ``x-request-id`` where it is a sane one, so that a trace goes on; else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _GIVEN_ID.match(text := str(value, "latin-1")):
            return text
    return f"req_{os.urandom(16).hex()}"
