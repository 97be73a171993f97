"""Everything that is not ours goes to the upstream and back, byte for byte (wire §3.10)."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

from starlette.types import Message, Receive, Scope, Send

from proxy import codec
from proxy.errors import NotBuilt, UpstreamError
from proxy.upstream import Forwarded, Pool

log = logging.getLogger(__name__)

_EVENTS = re.compile(rb"\s*text/event-stream\b", re.IGNORECASE)


class Passthrough:
    """An ASGI application that relays requests to the upstream and its answers back, unread.

    ``keep_authorization``: False where the caller's Authorization is statecar's own key. ``streams``: called with 1 for
    an event stream that begins, with -1 for one that is over. Raises, before anything was sent: UpstreamUnreachable,
    UpstreamError, NotFound for the upstream's own responses, NotBuilt for an upgrade.
    """

    def __init__(self, pool: Pool, *, keep_authorization: bool, streams: Callable[[int], object] = bool) -> None:
        self._pool, self._streams = pool, streams
        self._keep_authorization = keep_authorization

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await _refuse_websocket(scope, receive, send)
            return
        _refuse_upgrade(scope)
        first = await receive()
        if first["type"] == "http.disconnect":
            return
        caller = _Caller(first, receive)
        watch = asyncio.create_task(caller.gone())
        relay = asyncio.create_task(self._relay(scope, caller, send))
        try:
            await asyncio.wait((watch, relay), return_when=asyncio.FIRST_COMPLETED)
        finally:
            finished = relay.done()
            watch.cancel()
            relay.cancel()
            await asyncio.gather(watch, relay, return_exceptions=True)
        if finished:
            relay.result()

    async def _relay(self, scope: Scope, caller: _Caller, send: Send) -> None:
        upstream = self._pool.pick("", "")
        request = upstream.forward(
            scope["method"],
            _target(scope),
            scope["headers"],
            caller.body(),
            keep_authorization=self._keep_authorization,
        )
        async with request as answer:
            headers = answer.headers
            if answer.status in (204, 304):
                # no body may follow, but servers wait for as many bytes as this says
                headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            is_stream = any(name.lower() == b"content-type" and _EVENTS.match(value) for name, value in headers)
            self._streams(is_stream)
            try:
                await _relay_body(answer, send)
            except UpstreamError as exc:
                # Returning without the last message makes the server cut the connection: no end that looks clean.
                log.warning("upstream %s: %s", upstream.name, exc.message)
            finally:
                self._streams(-is_stream)


async def _relay_body(answer: Forwarded, send: Send) -> None:
    async for data in answer.chunks():
        ended = answer.ended
        await send({"type": "http.response.body", "body": data, "more_body": not ended})
        if ended:
            return
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Caller:
    """The other end: the body it sends, and whether it is still there. One task at a time may ask a server for more."""

    def __init__(self, first: Message, receive: Receive) -> None:
        self._first = first
        self._receive = receive
        self._parts: asyncio.Queue[Message] = asyncio.Queue(1)
        self._wanted = first.get("more_body", False)

    def body(self) -> bytes | AsyncIterator[bytes] | None:
        """None when there is none; bytes when it came in one message, which can be sent twice; else its parts."""
        return self._rest() if self._wanted else self._first.get("body") or None

    async def gone(self) -> None:
        """Return when the caller has left; until then, pass on what it sends."""
        while (message := await self._receive())["type"] != "http.disconnect":
            if self._wanted:
                await self._parts.put(message)

    async def _rest(self) -> AsyncIterator[bytes]:
        message = self._first
        try:
            yield message["body"]
            while message.get("more_body", False):
                message = await self._parts.get()
                yield message.get("body", b"")
        finally:
            self._wanted = False
            while not self._parts.empty():
                self._parts.get_nowait()


def _target(scope: Scope) -> bytes:
    path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    query: bytes = scope["query_string"]
    return path + b"?" + query if query else path


def _refuse_upgrade(scope: Scope) -> None:
    """Raise NotBuilt for an upgrade, save to ``h2c``: Java's client offers that each time and lives without it."""
    for name, value in scope["headers"]:
        if name == b"upgrade" and value.strip().lower() != b"h2c":
            raise NotBuilt(_NO_UPGRADE)


_NO_UPGRADE = "Protocol upgrades are not passed on to the upstream."


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1000})
        return
    error = NotBuilt(_NO_UPGRADE)
    headers = [(b"content-type", b"application/json")]
    await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": codec.dumps(error.body())})
