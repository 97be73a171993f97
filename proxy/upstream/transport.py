"""The road to the upstream: httpx's interface over aiohttp's parser and pool, with nothing added on the way.

What aiohttp and httpx-aiohttp do of their own accord, and this transport does not: normalise the URL, add headers,
keep cookies, decompress, follow redirects, send a request again, read the environment for every request (0.4 ms each,
and a netrc entry would collide with the caller's Authorization), wait for one of 100 connections, cut reads at 16 KB.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterable
from math import inf
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from httpx_aiohttp import AiohttpTransport
from multidict import CIMultiDict
from yarl import URL

from proxy.upstream.failure import Timeouts

KEEPALIVE = 4.0  # seconds; below the 5 s after which uvicorn, vLLM among its users, drops an idle connection
_HEAD_LIMIT = 64 * 1024  # bytes of one header line
_BYTES_AT_ONCE = 1024 * 1024  # above this aiohttp wants a file, so that writing does not hold up the loop


class Transport(AiohttpTransport):
    """Sends requests as they are given, over kept-alive connections without a limit in number.

    A request carries, as extensions, ``timeouts`` (``Timeouts``) and ``target`` (bytes, where it must not be made from
    the URL). A whole body (bytes) is sent once more, on a fresh connection, when a kept-alive one turns out to have
    been closed before any answer; a body read as it comes cannot be, and takes a fresh connection from the start.
    Everything that goes wrong is raised as ``httpx.TransportError`` with its cause.
    """

    def __init__(self, origin: str, socket: str | None = None) -> None:
        self._proxy = None if socket else _proxy_for(httpx.URL(origin))
        # without TLS on the way no certificates need be loaded, which takes 30 ms
        super().__init__(uds=socket, verify=origin.startswith("https:") or self._proxy is not None)
        self._session: aiohttp.ClientSession | None = None

    def get_client(self) -> aiohttp.ClientSession:
        """The session; made at the first request, because it belongs to the running loop."""
        if self._session is None:
            connector: aiohttp.BaseConnector
            if self.uds:
                connector = _UnixConnector(self.uds, limit=0, keepalive_timeout=KEEPALIVE)
            else:
                connector = _TCPConnector(limit=0, keepalive_timeout=KEEPALIVE, ssl=self.ssl_context)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                request_class=_Request,
                timeout=aiohttp.ClientTimeout(total=None),
                max_line_size=_HEAD_LIMIT,
                max_field_size=_HEAD_LIMIT,
            )
        return self._session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer's head, as soon as it has come; its body is ``response.stream``, one item a socket read."""
        timeouts: Timeouts = request.extensions["timeouts"]
        target = request.extensions.get("target") or request.url.raw_path
        headers = _headers(request)
        body = _body(request)
        sized = "Content-Length" in headers
        delivery = _Delivery(replayable=not isinstance(body, AsyncIterable), sized=sized)
        try:
            async with asyncio.timeout(timeouts.first_byte):
                response = await self.get_client().request(
                    request.method,
                    _url(request.url, target),
                    headers=headers,
                    data=body,
                    chunked=True if body is not None and not sized else None,
                    allow_redirects=False,
                    auto_decompress=False,
                    proxy=self._proxy,
                    timeout=aiohttp.ClientTimeout(total=None, connect=timeouts.connect),
                    middlewares=(delivery,),
                )
        except (aiohttp.ClientError, OSError) as exc:
            raise httpx.TransportError(str(exc)) from exc
        link = delivery.link
        assert link is not None  # there is an answer, so there was a connection
        if response.connection is not None and (protocol := response.connection.protocol) is not None:
            link.content = response.content
            # a head that comes before the model has read its prompt is no beginning: the idle limit waits for a byte
            protocol.read_timeout = timeouts.first_byte
            protocol.start_timeout()
        return httpx.Response(
            response.status,
            headers=list(response.raw_headers),
            stream=Body(response, link, timeouts.idle),
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": (response.reason or "").encode("latin-1")},
        )

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()


class Body(httpx.AsyncByteStream):
    """The bytes of an answer, one item a socket read; closing it before its end cuts the connection at once."""

    def __init__(self, response: aiohttp.ClientResponse, link: _Link, idle: float | None) -> None:
        """``idle``: seconds that a read may take, from the first byte on."""
        self._response, self._content = response, response.content
        self._link = link
        self._idle, self._asked = idle, inf
        self._begun = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def ended(self) -> bool:
        """Whether the last byte has been handed out."""
        return self._content.at_eof()

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        if data := await self.read():
            return data
        raise StopAsyncIteration

    async def read(self) -> bytes:
        """What the socket gave, b"" at the end."""
        self._asked = self._loop.time()
        try:
            data = await self._content.readany()
        except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, OSError) as exc:
            raise httpx.TransportError(str(exc)) from exc
        self._asked = inf
        if not self._begun and data:
            self._begin()
        return data

    def _begin(self) -> None:
        """The idle limit holds from here on. One timer looks how long a read has taken; aiohttp starts one for each."""
        self._begun = True
        connection = self._response.connection
        if connection is not None and connection.protocol is not None:
            connection.protocol.read_timeout = None
            connection.protocol.start_timeout()
            self._look()

    def _look(self) -> None:
        if not self._idle:
            return
        left = self._asked + self._idle - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(min(left, self._idle), self._look)
        else:
            self._content.set_exception(aiohttp.SocketTimeoutError("Timeout on reading data from socket"))

    async def aclose(self) -> None:
        """Leave the connection to the next request if the whole body has come, else cut it."""
        if self._timer:
            self._timer.cancel()
        if self._response.connection is not None or self._link.private:
            self._link.cut()
        self._response.close()


class _Link:
    """One connection, as its requests see it."""

    def __init__(self, protocol: ResponseHandler, *, private: bool) -> None:
        self.served = False
        self.private = private  # no other request will find it in the pool
        self.content: aiohttp.StreamReader | None = None
        self._socket = protocol.transport
        if protocol.closed is not None:
            protocol.closed.add_done_callback(self._lost)

    def cut(self) -> None:
        """Close at once; a mere close() would wait until the upstream has taken what is still to be sent."""
        if self._socket is not None:
            self._socket.abort()

    def _lost(self, closed: asyncio.Future[None]) -> None:
        if not closed.cancelled():
            closed.exception()  # seen: otherwise asyncio logs that nobody looked
        # aiohttp 3.14 leaves whoever reads the body waiting for ever when a chunk's size is no number.
        if self.content is not None and not self.content.is_eof() and self.content.exception() is None:
            self.content.set_exception(aiohttp.ClientPayloadError("the connection was lost in mid-body"))
        self._socket = self.content = None  # both lead back to the protocol, which the pool knows this link by


class _Request(aiohttp.ClientRequest):
    """aiohttp's request, with the wish for a connection of its own, and the one it got."""

    fresh = False
    reused = False
    link: _Link | None = None

    @property
    def connection_key(self) -> ConnectionKey:
        """The pool is asked by this key; one that nobody else has finds no connection in it."""
        key = super().connection_key
        return key._replace(proxy_headers_hash=id(self)) if self.fresh else key


class _Connector(aiohttp.BaseConnector):
    """A connector that tells the request about its connection."""

    _links: WeakKeyDictionary[ResponseHandler, _Link] | None = None

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 (aiohttp's signature)
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        assert connection.protocol is not None and isinstance(req, _Request)
        if self._links is None:
            self._links = WeakKeyDictionary()
        link = self._links.get(connection.protocol)
        if link is None:
            link = self._links[connection.protocol] = _Link(connection.protocol, private=req.fresh)
        req.link, req.reused = link, link.served
        link.served = True
        return connection


class _TCPConnector(_Connector, aiohttp.TCPConnector):
    pass


class _UnixConnector(_Connector, aiohttp.UnixConnector):
    pass


class _Delivery:
    """The aiohttp middleware of one request: it decides whether the request is sent again, nobody else."""

    def __init__(self, *, replayable: bool, sized: bool) -> None:
        self._replayable = replayable
        self._sized = sized
        self.link: _Link | None = None

    async def __call__(self, req: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        assert isinstance(req, _Request)  # the session's request_class
        if not self._sized and not req.body:
            req.headers.popall("Content-Length", None)  # aiohttp puts a 0 where the caller had nothing
        req.fresh = not self._replayable
        try:
            try:
                return await handler(req)
            except aiohttp.ClientConnectorError:
                raise
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError):
                if not (req.reused and self._replayable):
                    raise
            await req.close()
            req.fresh = True
            return await handler(req)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as exc:
            if isinstance(exc, aiohttp.ClientConnectorError):
                raise
            # Under its own name the session would send a GET again, on any connection.
            raise httpx.TransportError(str(exc)) from exc
        except BaseException:
            if req.link is not None:
                req.link.cut()  # the caller left, or the time is up
            raise
        finally:
            self.link = req.link


def _body(request: httpx.Request) -> bytes | io.BytesIO | AsyncIterable[bytes] | None:
    try:
        content = request.content
    except httpx.RequestNotRead:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        return request.stream
    if len(content) > _BYTES_AT_ONCE:
        return io.BytesIO(content)
    return content or None


def _url(url: httpx.URL, target: bytes) -> URL:
    """A URL whose "path" is the whole target: yarl would drop an empty query or a fragment."""
    try:
        path = target.decode()
    except UnicodeDecodeError:
        path = "".join(chr(byte) if byte < 128 else f"%{byte:02X}" for byte in target)
    return URL.build(scheme=url.scheme, authority=url.netloc.decode(), path=path, encoded=True)


def _headers(request: httpx.Request) -> CIMultiDict[str]:
    """As aiohttp wants them. It writes UTF-8, so other encodings of the 1990s leave as UTF-8, too."""
    raw = request.headers.raw
    try:
        return CIMultiDict([(name.decode(), value.decode()) for name, value in raw])
    except UnicodeDecodeError:
        return CIMultiDict([(_text(name), _text(value)) for name, value in raw])


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _proxy_for(origin: httpx.URL) -> URL | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for this origin."""
    proxy = getproxies().get(origin.scheme)
    return URL(proxy) if proxy and not proxy_bypass(origin.host) else None
