"""The road to the upstream: httpx's interface over connections of our own, with nothing added on the way (ADR 0018)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable

import httpx

from proxy.upstream.connection import Connection
from proxy.upstream.failure import Timeouts
from proxy.upstream.route import Route

KEEPALIVE = 4.0  # seconds; below the 5 s after which uvicorn, vLLM among its users, drops an idle connection


class Transport(httpx.AsyncBaseTransport):
    """Sends requests as they are given, over kept-alive connections without a limit in number, the latest used first.

    A request carries, as extensions, ``timeouts`` (``Timeouts``) and ``target`` (bytes, where it must not be made from
    the URL); it goes to ``origin`` whatever its URL. A whole body (bytes) is sent once more, on a fresh connection,
    when a kept-alive one turns out to have been closed before any answer; a body read as it comes cannot be, and takes
    a fresh connection from the start, which serves nobody else. What goes wrong is raised as
    ``httpx.ConnectError``, ``ProxyError`` or ``ConnectTimeout`` where nothing was sent, else as ``ReadTimeout``,
    ``RemoteProtocolError`` (no HTTP), ``ReadError`` (closed) or ``WriteError`` (the body given broke off).
    """

    def __init__(self, origin: str, socket: str | None = None) -> None:
        self._route = Route(httpx.URL(origin), socket)
        self._idle: dict[Connection, float] = {}  # and since when, the longest first
        self._connections: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer's head, as soon as it has come; its body is ``response.stream``, one item a socket read."""
        timeouts: Timeouts = request.extensions["timeouts"]
        loop = asyncio.get_running_loop()
        began = loop.time()
        body = _body(request)
        head, chunked = self._head(request, empty=body == b"")
        if chunked and isinstance(body, bytes):
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            chunked = False
        connection = self._kept(began) if isinstance(body, bytes) else None
        while True:
            reused = connection is not None
            if connection is None:
                connection = await self._connect(loop, timeouts)
            try:
                connection.limit(timeouts.first_byte, began)
                connection.send(head, body, bodiless=request.method == "HEAD", chunked=chunked)
                await connection.head(began)
            except BaseException as exc:
                connection.cut()
                connection.failure = None  # as in ``Body.aclose``
                if self._closed or not (reused and connection.silent and isinstance(exc, httpx.ReadError)):
                    raise
                connection = None
            else:
                return httpx.Response(
                    connection.status, headers=connection.headers, stream=Body(self, connection, timeouts.idle)
                )

    def _head(self, request: httpx.Request, *, empty: bool) -> tuple[bytes, bool]:
        """A request up to its body, its headers as they are, and whether its body goes in chunks."""
        pairs = request.headers.raw
        names = {name.lower() for name, _ in pairs}
        target = self._route.prefix + (request.extensions.get("target") or request.url.raw_path)
        lines = [b"%b %b HTTP/1.1" % (request.method.encode(), target)]
        if b"host" not in names:
            lines.append(b"Host: " + request.url.netloc)
        lines += [b"%b: %b" % pair for pair in pairs]
        chunked = not empty and b"content-length" not in names
        if chunked:
            lines.append(b"Transfer-Encoding: chunked")
        head = b"\r\n".join(lines)
        breaks = len(lines) - 1
        if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
            raise ValueError("a header of a request to the upstream holds a line break")
        return b"%b\r\n%b\r\n" % (head, self._route.headers), chunked

    async def _connect(self, loop: asyncio.AbstractEventLoop, timeouts: Timeouts) -> Connection:
        limits = [limit for limit in (timeouts.connect, timeouts.first_byte) if limit is not None]
        limit = min(limits, default=None)
        try:
            async with asyncio.timeout(limit):
                connection = await self._route.connect(lambda: Connection(loop, self._lost))
        except TimeoutError as exc:
            kind = httpx.ConnectTimeout if limit == timeouts.connect else httpx.ReadTimeout
            raise kind("no connection in time") from exc
        if self._closed:
            connection.cut()
        if not connection.transport.is_closing():
            self._connections.add(connection)
        return connection

    def _kept(self, now: float) -> Connection | None:
        """The idle connection that was used last."""
        while self._idle:
            connection, since = self._idle.popitem()
            if connection.keeps and now - since < KEEPALIVE:
                return connection
            connection.close()
        return None

    def release(self, connection: Connection) -> None:
        """A request is done with its connection: it serves again if the whole body has come, else it is cut."""
        if not connection.free():
            connection.cut()
            return
        loop = asyncio.get_running_loop()
        self._idle[connection] = loop.time()
        if self._sweeper is None:
            self._sweeper = loop.call_later(KEEPALIVE, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the connections that were idle for too long."""
        self._sweeper = None
        while self._idle:
            connection, since = next(iter(self._idle.items()))
            if since + KEEPALIVE > loop.time():
                self._sweeper = loop.call_at(since + KEEPALIVE, self._sweep, loop)
                return
            del self._idle[connection]
            connection.close()

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._idle.pop(connection, None)

    async def aclose(self) -> None:
        """Close every connection, for good; what is being asked or answered ends as broken."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._idle.clear()
        for connection in list(self._connections):
            connection.cut()
        await asyncio.sleep(0)  # in which their sockets are closed


class Body(httpx.AsyncByteStream):
    """The bytes of an answer, one item a socket read; closing it before its end cuts the connection at once.

    ``taken``: bytes of it that have been handed out, as they were sent, the first time with its head.
    """

    def __init__(self, transport: Transport, connection: Connection, idle: float | None) -> None:
        """``idle``: seconds that a read may take, from the first byte on."""
        self._transport = transport
        self._connection: Connection | None = connection
        self._idle = idle
        self._begun = self._ended = False
        self.taken = 0

    @property
    def ended(self) -> bool:
        """Whether the last byte has been handed out."""
        connection = self._connection
        return self._ended if connection is None else connection.over and not connection.parts

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        if data := await self.read():
            return data
        raise StopAsyncIteration

    async def read(self) -> bytes:
        """What the socket gave, b"" at the end; what has come already is given at once."""
        connection = self._connection
        if connection is None:
            raise httpx.ReadError("the body was closed")
        while not connection.parts:
            if connection.over:
                return b""
            if connection.failure is not None:
                raise connection.failure
            await connection.news()
        if not self._begun:
            self._begun = True
            if not connection.over:
                connection.limit(self._idle)
        self.taken += connection.came
        return connection.take()

    async def aclose(self) -> None:
        """Leave the connection to the next request if the whole body has come, else cut it."""
        connection = self._connection
        if connection is not None:
            self._ended, self._connection = self.ended, None
            self._transport.release(connection)
            connection.failure = None  # raised, it is a cycle with the frames that it has passed


def _body(request: httpx.Request) -> bytes | AsyncIterable[bytes]:
    try:
        return request.content
    except httpx.RequestNotRead:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        return request.stream
