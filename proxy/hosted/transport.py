"""How MCP servers are reached: bounded, guarded, and with failures that are told instead of thrown.

An exception in the SDK's transports ends the session and every call in it; so what fails here becomes an answer that
fails one message, and what happened is noted for whoever sent it.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore2
import httpx2

from proxy.hosted.guard import Guard, Refused
from proxy.hosted.hindrance import hindrance

BODY_LIMIT = 4 * 1024 * 1024
"""Bytes of one answer, or of all pages of a list."""
VALUES_LIMIT = 400_000
"""Commas and opening brackets of the same, those within texts too. A JSON value has one or two, and takes up to 350
bytes while it is read: so no answer takes more than some 70 MB and 0.3 s, where 4 MiB of ``[],`` take 470 and 1.6."""
_RESUMED = 100
"""How often the answer to one message may break off and go on (MCP 2025-11-25, Transports)."""
_LAST_EVENT = "last-event-id"
_LONGER = 16
"""How much more the stream of many answers may hold that the SSE transport of before 2025 keeps open for a session."""
CONNECT_TIMEOUT = 10.0
_IDLE = 4.0
"""Seconds a connection is kept for the next turn: less than the 5 that many servers keep theirs."""
_FAILED = 502
_ERRORS_OF_MCP = (400, 404)
"""The statuses that an error of the protocol comes with (MCP 2025-06-18 and 2026-07-28, Transports)."""


@dataclass
class Exchange:
    """What became of one message, beside what the server says in its answer.

    ``status``: of an HTTP answer that is no success; ``speaks``: whether that answer may hold an error of the
    protocol's; ``trouble``: what else failed, in words; ``refused``: why the guard did not let it out; ``over``: set
    once anything of that is known. ``resumed``: how often the answer was asked to go on. ``left``, ``values_left``:
    bytes and values that the server may still send in answer.
    """

    status: int | None = None
    speaks: bool = False
    trouble: str | None = None
    refused: str | None = None
    resumed: int = 0
    left: int = BODY_LIMIT
    values_left: int = VALUES_LIMIT
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def may_resume(self) -> bool:
        """Counts one more try to have the rest of an answer; whether it may be made."""
        self.resumed += 1
        if self.resumed > _RESUMED:
            self.trouble = "Its answer breaks off again and again."
            self.over.set()
        return self.resumed <= _RESUMED

    def takes(self, part: bytes) -> bool:
        """Whether the answer may hold this too."""
        self.left -= len(part)
        self.values_left -= part.count(b",") + part.count(b"[") + part.count(b"{")
        if self.left < 0 or self.values_left < 0:
            self.trouble = self.trouble or _TOO_LARGE
            return False
        return True

    def failed(self) -> str | None:
        """What HTTP made of it, in words, without anything secret; None where the server's own words count."""
        return None if self.speaks and not self.trouble else self.told()

    def told(self) -> str | None:
        """In words, without anything secret; None if nothing is known to have failed."""
        if self.trouble or self.status is None:
            return self.trouble
        try:
            return f"Http status code: {self.status} ({HTTPStatus(self.status).phrase})."
        except ValueError:
            return f"Http status code: {self.status}."


EXCHANGE: ContextVar[Exchange] = ContextVar("exchange")
"""The message that the running task, or the one that started it, is sending."""


class GuardedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that the guard has looked at, and to nothing else."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore2's own signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._guard.addresses(host, port)
                for address in addresses[:-1]:
                    try:
                        return await self._network.connect_tcp(address, port, CONNECT_TIMEOUT / len(addresses))
                    except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                        continue
                return await self._network.connect_tcp(addresses[-1], port, timeout)
        except TimeoutError as exc:
            raise httpcore2.ConnectTimeout from exc
        except OSError as exc:  # no such name
            raise httpcore2.ConnectError from exc


class Transport(httpx2.AsyncBaseTransport):
    """One pool of connections for the sessions of all turns; it is closed by ``shut``, not by the session's client."""

    def __init__(self, pool: httpcore2.AsyncConnectionPool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        exchange = EXCHANGE.get()
        if _is_standing_stream(request):
            return httpx2.Response(405, request=request)
        if _LAST_EVENT in request.headers and not exchange.may_resume():
            return httpx2.Response(_FAILED, request=request)
        try:
            answer = await self._pool.handle_async_request(
                httpcore2.Request(
                    request.method,
                    httpcore2.URL(
                        scheme=request.url.raw_scheme,
                        host=request.url.raw_host,
                        port=request.url.port,
                        target=request.url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        except Refused as exc:
            exchange.refused = exchange.trouble = f"'server_url' {exc}."
        except _TROUBLES as exc:
            exchange.trouble = _trouble(exc)
        else:
            return self._bounded(request, answer, exchange)
        exchange.over.set()
        return httpx2.Response(_FAILED, request=request)

    def _bounded(self, request: httpx2.Request, answer: httpcore2.Response, exchange: Exchange) -> httpx2.Response:
        headers = httpx2.Headers(answer.headers)
        exchange.status = answer.status if answer.status >= 300 else None
        if exchange.status:
            exchange.over.set()
        json = headers.get("content-type", "").lower().startswith("application/json")
        exchange.speaks = json and answer.status in _ERRORS_OF_MCP
        if request.method == "GET" and _LAST_EVENT not in request.headers:
            exchange.left, exchange.values_left = _LONGER * BODY_LIMIT, _LONGER * VALUES_LIMIT
        if headers.get("content-encoding", "identity") != "identity":
            exchange.trouble = "It sent a compressed answer, which was not asked for."
            exchange.left = 0
        assert isinstance(answer.stream, AsyncIterable)
        stream = _Body(answer.stream, exchange)
        return httpx2.Response(answer.status, headers=headers, stream=stream, request=request)

    async def aclose(self) -> None:
        """Nothing: the next turn uses the same connections."""

    async def shut(self) -> None:
        await self._pool.aclose()


def guarded(guard: Guard) -> Transport:
    """For servers that requests name. No proxy: it would resolve names by itself."""
    return Transport(_pool(network_backend=GuardedNetwork(guard)))


def trusted(url: str) -> Transport:
    """For a server that the operator named, by way of the environment's proxy where it asks for one."""
    at = httpx2.URL(url)
    proxy = None if proxy_bypass(f"{at.host}:{at.port}" if at.port else at.host) else getproxies().get(at.scheme)
    if not proxy:
        return Transport(_pool())
    by = httpx2.Proxy(url=proxy if "://" in proxy else f"http://{proxy}")
    to = httpcore2.URL(scheme=by.url.raw_scheme, host=by.url.raw_host, port=by.url.port, target=by.url.raw_path)
    return Transport(_pool(proxy=httpcore2.Proxy(to, auth=by.raw_auth)))


def _pool(**rest: Any) -> httpcore2.AsyncConnectionPool:
    return httpcore2.AsyncConnectionPool(
        ssl_context=_certificates(), max_connections=None, max_keepalive_connections=100, keepalive_expiry=_IDLE, **rest
    )


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Read once: it takes 20 ms."""
    return httpcore2.default_ssl_context()


class _Body(httpx2.AsyncByteStream):
    """An answer's body, which ends early, and says so in its exchange, where it fails or is too large."""

    def __init__(self, stream: AsyncIterable[bytes], exchange: Exchange) -> None:
        self._stream, self._exchange = stream, exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._stream:
                if not self._exchange.takes(part):
                    return
                yield part
        except _TROUBLES as exc:
            self._exchange.trouble = _trouble(exc)

    async def aclose(self) -> None:
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            await close()


_TOO_LARGE = f"Its answer has more than {BODY_LIMIT // 1024 // 1024} MiB or more than {VALUES_LIMIT} values."
_TROUBLES = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpcore2.UnsupportedProtocol,
)


def _trouble(exc: Exception) -> str:
    """In words, without the exception's own, which may hold addresses."""
    match exc:
        case httpcore2.ConnectError():
            return f"It could not be reached{hindrance(exc)}."
        case httpcore2.ConnectTimeout():
            return "It could not be reached: the connection timed out."
        case httpcore2.ProxyError():
            return "It could not be reached: the environment's proxy did not connect."
        case httpcore2.TimeoutException():
            return "It stopped answering."
        case _:
            return "The connection broke."


def _is_standing_stream(request: httpx2.Request) -> bool:
    """The stream that a session opens for what a server says unasked; there is nothing here that wants to hear it."""
    headers = request.headers
    return request.method == "GET" and "mcp-session-id" in headers and _LAST_EVENT not in headers
