"""MCP sessions over the official SDK. Loaded only where a server may be asked (``proxy.hosted.open_hosted``)."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import httpx2
from mcp.client.session import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    HEADER_MISMATCH,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    UNSUPPORTED_PROTOCOL_VERSION,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    PaginatedRequestParams,
)
from pydantic import ValidationError

from proxy import __version__
from proxy.errors import InvalidRequest, StatecarError, ToolServerError, ToolSessionLost
from proxy.hosted.box import Answer
from proxy.hosted.guard import Guard
from proxy.hosted.listing import Listing
from proxy.hosted.outcomes import execution_error, protocol_error
from proxy.hosted.results import images_of, text_of
from proxy.hosted.servers import MODERN, SSE, STREAMABLE, Server
from proxy.hosted.transport import BODY_LIMIT, CONNECT_TIMEOUT, EXCHANGE, Exchange, Transport, guarded, trusted

T = TypeVar("T")

_ABOUT = Implementation(name="statecar", version=__version__)
_GOODBYE = 3.0
"""Seconds the end of a session may take."""
_REMEMBERED = 1000
_MOST_OPEN = 1000
"""Sessions of a process with servers that requests name: each takes a socket and some 70 KB, however slow it is."""
_OLD_TRANSPORT = (400, 404, 405)
"""What a server of the SSE transport answers to a POST of its URL (MCP 2025-06-18, Transports)."""
_TOLD_FAULTS = 1000
_FORGOTTEN = 404
"""What a server answers to a message of a session it does not know (MCP 2025-06-18, Transports)."""
_FOREIGN_LOGGERS = ("mcp", "client", "httpx2", "httpcore2")
"""They log URLs, headers and messages."""


class McpSessions:
    """Opens sessions; keeps what they share: connections, and which transport a server spoke last."""

    def __init__(self, guard: Guard | None, timeout: float) -> None:
        for name in _FOREIGN_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self.timeout = timeout
        self._guarded = guarded(guard) if guard else None
        self._trusted: dict[str, Transport] = {}
        self._spoken: OrderedDict[str, str] = OrderedDict()
        self._open: set[McpSession] = set()

    def open(self, server: Server) -> McpSession:
        """Raises ToolServerError where too many are open; never for one of the operator's servers."""
        if server.guarded and len(self._open) >= _MOST_OPEN:
            raise ToolServerError(server.label, "Too many servers are being asked here at once.", http_status=503)
        session = McpSession(server, self)
        self._open.add(session)
        session.task.add_done_callback(lambda _: self._open.discard(session))
        return session

    async def aclose(self) -> None:
        for session in set(self._open):
            session.close()
        if tasks := {session.task for session in self._open}:
            _, late = await asyncio.wait(tasks, timeout=_GOODBYE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for transport in filter(None, (self._guarded, *self._trusted.values())):
            await transport.shut()

    def transport(self, server: Server) -> Transport:
        if server.guarded:
            assert self._guarded is not None, "a request's URL was checked by the guard"
            return self._guarded
        if server.url not in self._trusted:
            self._trusted[server.url] = trusted(server.url)
        return self._trusted[server.url]

    def ways(self, server: Server) -> list[str]:
        """The transports to try, in order."""
        if server.transport:
            return [server.transport]
        first = self._spoken.get(server.url, STREAMABLE)
        return [first, *(way for way in (STREAMABLE, SSE) if way != first)]

    def speaks(self, server: Server, way: str) -> None:
        """Remembered where it saves the next session a try."""
        if way != STREAMABLE and not server.transport:
            self._spoken[server.url] = way
            while len(self._spoken) > _REMEMBERED:
                self._spoken.popitem(last=False)
        else:
            self._spoken.pop(server.url, None)


class McpSession:
    """One session with one server. The SDK's scopes are left in the task that entered them: one of its own."""

    def __init__(self, server: Server, sessions: McpSessions) -> None:
        loop = asyncio.get_running_loop()
        self._server, self._sessions = server, sessions
        self._ready: asyncio.Future[ClientSession] = loop.create_future()
        self._leave = asyncio.Event()
        self._way = STREAMABLE
        self.task = loop.create_task(self._live())
        self.task.add_done_callback(self._ended)

    @property
    def alive(self) -> bool:
        return not (self.task.done() or self._leave.is_set())

    def close(self) -> None:
        """Says goodbye, in the background; one that has not been greeted is left without."""
        self._leave.set()
        if not self._ready.done():
            self.task.cancel()

    async def list(self) -> list[dict[str, Any]]:
        """The server's tools. Raises ToolServerError, InvalidRequest."""
        session = await asyncio.shield(self._ready)
        exchange = Exchange()
        EXCHANGE.set(exchange)
        listing = Listing(self._server.label)
        more = True
        while more:
            params = PaginatedRequestParams(cursor=listing.cursor) if listing.cursor is not None else None
            try:
                page = await self._answer(session.list_tools(params=params), exchange)
            except (MCPError, ValidationError, RuntimeError) as exc:
                raise self._failure(exc, exchange) from None
            more = listing.add(page.model_dump(by_alias=True, mode="json", exclude_none=True))
        return listing.tools

    async def call(self, name: str, arguments: dict[str, Any]) -> Answer:
        """Raises ToolServerError, InvalidRequest where the server could not be asked; ValueError for arguments that are
        nested too deeply.
        """
        session = await asyncio.shield(self._ready)
        exchange = Exchange()
        EXCHANGE.set(exchange)
        try:
            result = await self._called(session, name, arguments, exchange)
        except MCPError as exc:
            if exchange.failed() is None and exchange.status != _FORGOTTEN and not (_broke(exc) or _garbled(exc)):
                return Answer(error=protocol_error(exc.code, exc.message))
            raise self._failure(exc, exchange) from None
        except (ValidationError, RuntimeError) as exc:
            raise self._failure(exc, exchange) from None
        text = text_of(result)
        if result.is_error:
            return Answer(error=execution_error(text))
        return Answer(text, result.structured_content, images_of(result))

    async def _called(
        self, session: ClientSession, name: str, arguments: dict[str, Any], exchange: Exchange
    ) -> CallToolResult:
        """Not by the session's own call_tool, which lists all tools anew to check the result by the server's schema."""
        request = CallToolRequest(params=CallToolRequestParams(name=name, arguments=arguments))
        try:
            return await self._answer(session.send_request(request, CallToolResult), exchange)
        except MCPError as exc:
            if exc.code != HEADER_MISMATCH:
                raise
        await self.list()  # it says which arguments travel as headers too (MCP 2026-07-28, Transports)
        EXCHANGE.set(exchange)
        return await self._answer(session.send_request(request, CallToolResult), exchange)

    async def _answer(self, work: Coroutine[Any, Any, T], exchange: Exchange) -> T:
        """What ``work`` gives. Over SSE the SDK would wait for the answer to a message that did not arrive."""
        if self._way != SSE:
            return await work
        answered, failed = asyncio.create_task(work), asyncio.create_task(exchange.over.wait())
        try:
            await asyncio.wait({answered, failed}, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                self.close()  # nor does it send anything afterwards
                raise RuntimeError
            return answered.result()
        finally:
            answered.cancel()
            failed.cancel()

    async def _live(self) -> None:
        """Connects, waits for the end, says goodbye. A failure is told to those who wait for it to be ready."""
        first: StatecarError | None = None
        ways = self._sessions.ways(self._server)
        for way in ways:
            exchange = Exchange()
            EXCHANGE.set(exchange)
            try:
                await self._live_by(way)
                return
            except Exception as exc:  # the SDK raises groups of anything
                if self._ready.done():
                    return
                another = exchange.status in _OLD_TRANSPORT
                first = first if first and another else self._failure(exc, exchange)
                if way == ways[-1] or not another:
                    self._ready.set_exception(first)
                    return

    async def _live_by(self, way: str) -> None:
        clock = asyncio.timeout(self._sessions.timeout)
        async with clock, AsyncExitStack() as stack:
            session, self._way = await self._enter(stack, way)
            self._sessions.speaks(self._server, self._way)
            clock.reschedule(None)
            self._ready.set_result(session)
            await self._leave.wait()
            clock.reschedule(asyncio.get_running_loop().time() + _GOODBYE)

    async def _enter(self, stack: AsyncExitStack, way: str) -> tuple[ClientSession, str]:
        """A session that has greeted its server, and the way it turned out to speak."""
        url = self._server.url
        if way == SSE:
            entered = sse_client(url, httpx_client_factory=self._client)
        else:
            client = await stack.enter_async_context(self._client())
            entered = streamable_http_client(url, http_client=client, max_sse_event_size=BODY_LIMIT)
        read, write = await stack.enter_async_context(entered)
        session = await stack.enter_async_context(ClientSession(read, write, client_info=_ABOUT))
        return session, await _greeted(session, way)

    def _client(self, *_: Any, **__: Any) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            transport=self._sessions.transport(self._server),
            trust_env=False,
            headers={
                "user-agent": f"statecar/{__version__}",
                "accept-encoding": "identity",
                **dict(self._server.headers),
            },
            timeout=httpx2.Timeout(CONNECT_TIMEOUT, read=None),
        )

    def _failure(self, exc: Exception, exchange: Exchange) -> StatecarError:
        while isinstance(exc, ExceptionGroup):
            exc = exc.exceptions[0]
        if exchange.refused:
            return InvalidRequest(exchange.refused, param="tools")
        if self._ready.done() and exchange.status == _FORGOTTEN:
            self.close()
            return ToolSessionLost(self._server.label, "It has forgotten the session.", http_status=_FORGOTTEN)
        said = ""
        if isinstance(exc, TimeoutError):
            why = f"It did not answer within {self._sessions.timeout:g} seconds."
        elif (failed := exchange.failed()) is not None:
            why = failed
        elif isinstance(exc, MCPError) and _garbled(exc):
            why = "Its answer is no message of JSON-RPC."
        elif isinstance(exc, MCPError) and _broke(exc):
            why = "The connection broke."
        elif isinstance(exc, MCPError):
            why, said = f"It answered with error {exc.code}.", exc.message[:500]
        elif isinstance(exc, ValidationError):
            why, said = "Its answer is not as MCP has it.", _first_fault(exc)
        else:
            why = "It is no MCP server, or speaks another version."
        by_default = 504 if isinstance(exc, TimeoutError) else 502
        return ToolServerError(self._server.label, why, said=said, http_status=exchange.status or by_default)

    def _ended(self, _: asyncio.Task[None]) -> None:
        """Nobody may wait for ever, nor is a failure that nobody heard of an error of ours."""
        if not self._ready.done():
            self._ready.set_exception(ToolServerError(self._server.label, "The turn is over."))
        if not self._ready.cancelled():
            self._ready.exception()


async def _greeted(session: ClientSession, way: str) -> str:
    """Greets the server as most of them know it; one that knows only the greeting of 2026 as it does."""
    if way == MODERN:
        await session.discover()
        return MODERN
    try:
        await session.initialize()
    except MCPError as exc:
        if exc.code not in (UNSUPPORTED_PROTOCOL_VERSION, METHOD_NOT_FOUND) or EXCHANGE.get().trouble or way == SSE:
            raise
        before = EXCHANGE.set(Exchange())
        try:
            await session.discover()
        except MCPError:
            raise exc from None
        finally:
            EXCHANGE.reset(before)
        return MODERN
    return way


def _broke(exc: MCPError) -> bool:
    """Whether the SDK says that no answer will come; servers use its code for errors of their own."""
    return exc.code == CONNECTION_CLOSED and exc.message.startswith(("Connection closed", "SSE stream "))


def _garbled(exc: MCPError) -> bool:
    """Whether the SDK says that it cannot read an answer, of which it repeats some."""
    return exc.code == PARSE_ERROR and exc.message.startswith("Failed to parse ")


def _first_fault(exc: ValidationError) -> str:
    """Where there are very many, telling one takes seconds, as pydantic tells all or none."""
    if (count := exc.error_count()) > _TOLD_FAULTS:
        return f"it has {count} faults."
    fault = exc.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"[:300]
