"""MCP sessions over the official SDK. Loaded only where a server may be asked (``proxy.hosted.open_hosted``)."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from contextlib import AsyncExitStack
from typing import Any

import httpcore2
import httpx2
from mcp.client.session import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    METHOD_NOT_FOUND,
    UNSUPPORTED_PROTOCOL_VERSION,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    PaginatedRequestParams,
)
from pydantic import ValidationError

from proxy import __version__
from proxy.errors import InvalidRequest, StatecarError, ToolServerError
from proxy.hosted.box import Answer
from proxy.hosted.guard import Guard
from proxy.hosted.listing import Listing
from proxy.hosted.outcomes import execution_error, protocol_error
from proxy.hosted.results import images_of, text_of
from proxy.hosted.servers import SSE, STREAMABLE, Server
from proxy.hosted.transport import BODY_LIMIT, CONNECT_TIMEOUT, EXCHANGE, Exchange, Transport, guarded, trusted

_ABOUT = Implementation(name="statecar", version=__version__)
_GOODBYE = 3.0
"""Seconds the end of a session may take."""
_REMEMBERED = 1000
_OLD_TRANSPORT = (400, 404, 405)
"""What a server of the SSE transport answers to a POST of its URL (MCP 2025-06-18, Transports)."""
_FOREIGN_LOGGERS = ("mcp", "client", "httpx2", "httpcore2")
"""They log URLs, headers and messages."""


class McpSessions:
    """Opens sessions; keeps what they share: connections, certificates, and which transport a server spoke last."""

    def __init__(self, guard: Guard | None, timeout: float) -> None:
        for name in _FOREIGN_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self.timeout = timeout
        self._tls = httpcore2.default_ssl_context()
        self._guarded = guarded(guard, self._tls) if guard else None
        self._trusted: dict[str, Transport] = {}
        self._spoken: OrderedDict[str, str] = OrderedDict()
        self._open: set[McpSession] = set()

    def open(self, server: Server) -> McpSession:
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
            self._trusted[server.url] = trusted(server.url, self._tls)
        return self._trusted[server.url]

    def ways(self, server: Server) -> list[str]:
        """The transports to try, in order."""
        if server.transport:
            return [server.transport]
        first = self._spoken.get(server.url, STREAMABLE)
        return [first, SSE if first == STREAMABLE else STREAMABLE]

    def speaks(self, server: Server, way: str) -> None:
        """Remembered only where it saves the next session a try."""
        if way == SSE and not server.transport:
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
        self.task = loop.create_task(self._live())
        self.task.add_done_callback(self._ended)

    @property
    def alive(self) -> bool:
        return not (self.task.done() or self._leave.is_set())

    def close(self) -> None:
        self._leave.set()

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
                page = await session.list_tools(params=params)
            except (MCPError, ValidationError, RuntimeError) as exc:
                raise self._failure(exc, exchange) from None
            more = listing.add(page.model_dump(by_alias=True, mode="json", exclude_none=True))
        return listing.tools

    async def call(self, name: str, arguments: dict[str, Any]) -> Answer:
        """Raises ToolServerError, InvalidRequest where the server could not be asked."""
        session = await asyncio.shield(self._ready)
        exchange = Exchange()
        EXCHANGE.set(exchange)
        request = CallToolRequest(params=CallToolRequestParams(name=name, arguments=arguments))
        try:
            # Not session.call_tool: it lists all tools anew to check the output by a schema of the server's own.
            result = await session.send_request(request, CallToolResult)
        except MCPError as exc:
            if exchange.told() is None and exc.code != CONNECTION_CLOSED:
                return Answer(error=protocol_error(exc.code, exc.message))
            raise self._failure(exc, exchange) from None
        except (ValidationError, RuntimeError) as exc:
            raise self._failure(exc, exchange) from None
        text = text_of(result)
        if result.is_error:
            return Answer(error=execution_error(text))
        return Answer(text, result.structured_content, images_of(result))

    async def _live(self) -> None:
        """Connects, waits for the end, says goodbye. A failure is told to those who wait for it to be ready."""
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
                if way == ways[-1] or exchange.status not in _OLD_TRANSPORT:
                    self._ready.set_exception(self._failure(exc, exchange))
                    return

    async def _live_by(self, way: str) -> None:
        clock = asyncio.timeout(self._sessions.timeout)
        async with clock, AsyncExitStack() as stack:
            session = await self._enter(stack, way)
            self._sessions.speaks(self._server, way)
            clock.reschedule(None)
            self._ready.set_result(session)
            await self._leave.wait()
            clock.reschedule(asyncio.get_running_loop().time() + _GOODBYE)

    async def _enter(self, stack: AsyncExitStack, way: str) -> ClientSession:
        url = self._server.url
        if way == SSE:
            entered = sse_client(url, httpx_client_factory=self._client)
        else:
            client = await stack.enter_async_context(self._client())
            entered = streamable_http_client(url, http_client=client, max_sse_event_size=BODY_LIMIT)
        read, write = await stack.enter_async_context(entered)
        session = await stack.enter_async_context(ClientSession(read, write, client_info=_ABOUT))
        try:
            await session.initialize()
        except MCPError as exc:
            # Most servers know no other greeting; one that knows only the greeting of 2026 says so.
            if EXCHANGE.get().trouble or exc.code not in (UNSUPPORTED_PROTOCOL_VERSION, METHOD_NOT_FOUND):
                raise
            if exc.code == METHOD_NOT_FOUND and EXCHANGE.get().status is not None:
                raise
            await session.discover()
        return session

    def _client(self, *_: Any, **__: Any) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            transport=self._sessions.transport(self._server),
            trust_env=False,
            headers={
                "user-agent": f"statecar/{__version__}",
                "accept-encoding": "identity",
                **dict(self._server.headers),
            },
            timeout=httpx2.Timeout(CONNECT_TIMEOUT, read=self._sessions.timeout),
        )

    def _failure(self, exc: Exception, exchange: Exchange) -> StatecarError:
        if exchange.refused:
            return InvalidRequest(exchange.refused, param="tools")
        if isinstance(exc, TimeoutError):
            why = f"It did not answer within {self._sessions.timeout:g} seconds."
        elif (told := exchange.told()) is not None:
            why = told
        elif isinstance(exc, MCPError) and exc.code != CONNECTION_CLOSED:
            why = f"It answered with error {exc.code}: {exc.message[:500]}"
        elif isinstance(exc, MCPError):
            why = "The connection broke."
        elif isinstance(exc, ValidationError):
            why = f"Its answer is not as MCP has it: {_first_fault(exc)}"
        else:
            why = "It is no MCP server, or speaks another version."
        return ToolServerError(self._server.label, why, http_status=exchange.status or 502)

    def _ended(self, _: asyncio.Task[None]) -> None:
        """Nobody may wait for ever, nor is a failure that nobody heard of an error of ours."""
        if not self._ready.done():
            self._ready.set_exception(ToolServerError(self._server.label, "The turn is over."))
        if not self._ready.cancelled():
            self._ready.exception()


def _first_fault(exc: ValidationError) -> str:
    fault = exc.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"[:300]
