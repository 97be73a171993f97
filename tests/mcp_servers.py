"""MCP servers on 127.0.0.1: the SDK's own, and one that says whatever it is told to.

async with McpServer() as server:              # streamable HTTP; McpServer(sse=True): the old transport
    ...                                        # talk to server.url
    assert server.calls == [("search", {"q": "x"})]

async with Liar({"tools/list": {"tools": 1}}) as server: ...
"""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mcp_types
from mcp.server import Server
from mcp.server.sse import SseServerTransport
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from tests.backend import PATIENCE, serving
from tests.servers import free_port, until

EXAMPLE = Path(__file__).parents[1] / "examples" / "mcp_server.py"


@dataclass
class Tool:
    """A tool. ``run`` gets the arguments and gives a text or a whole CallToolResult, at once or to be awaited."""

    name: str
    run: Callable[[dict[str, Any]], Any]
    description: str | None = None
    schema: dict[str, Any] = field(default_factory=lambda: {"type": "object"})
    read_only: bool | None = None

    def declared(self) -> mcp_types.Tool:
        hints = None if self.read_only is None else mcp_types.ToolAnnotations(read_only_hint=self.read_only)
        return mcp_types.Tool(name=self.name, description=self.description, input_schema=self.schema, annotations=hints)


SEARCH = Tool("search", lambda _: "found", "Search")
"""The tool of tests/golden/mcp.jsonl."""


def broken(message: str = "The disk is full.") -> mcp_types.CallToolResult:
    """The result of a tool that tells that it failed."""
    return mcp_types.CallToolResult(content=[mcp_types.TextContent(text=message)], is_error=True)


class McpServer:
    """A server of the SDK in this loop.

    ``calls``: names and arguments, in the order in which they came, ``metas``: the ``_meta`` of each; ``done``: those
    that were not cancelled; ``requests``: (method, headers) of every HTTP request; ``listings``: how often the tools
    were listed.
    """

    def __init__(
        self, *tools: Tool, sse: bool = False, stateless: bool = False, json_response: bool = False, name: str = "docs"
    ) -> None:
        self.tools = {tool.name: tool for tool in tools or (SEARCH,)}
        self.url = ""
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.done: list[tuple[str, dict[str, Any]]] = []
        self.metas: list[Any] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.listings = 0
        self._news = asyncio.Condition()
        self._sse = sse
        self._options = {"stateless_http": stateless, "json_response": json_response}
        self._server: Server[Any] = Server(name, on_list_tools=self._list, on_call_tool=self._call)

    async def called(self, count: int) -> tuple[str, dict[str, Any]]:
        """The ``count``-th call, 1 being the first, as soon as it is there."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: len(self.calls) >= count)
        return self.calls[count - 1]

    async def __aenter__(self) -> McpServer:
        self._stack = AsyncExitStack()
        app = _sse_app(self._server) if self._sse else self._server.streamable_http_app(**self._options)
        await self._stack.enter_async_context(_alive(app))
        root = await self._stack.enter_async_context(serving(self._heard(app)))
        self.url = root + ("/sse" if self._sse else "/mcp")
        return self

    async def die(self) -> None:
        """Ends at once: its connections are cut, later ones refused."""
        await self._stack.aclose()

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    def _heard(self, app: Any) -> Any:
        async def outer(scope: Any, receive: Any, send: Any) -> None:
            headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
            self.requests.append((scope["method"], headers))
            await app(scope, receive, send)

        return outer

    async def _list(self, *_: Any) -> mcp_types.ListToolsResult:
        self.listings += 1
        return mcp_types.ListToolsResult(tools=[tool.declared() for tool in self.tools.values()])

    async def _call(self, _: Any, params: mcp_types.CallToolRequestParams) -> mcp_types.CallToolResult:
        call = (params.name, params.arguments or {})
        self.metas.append(params.meta or {})
        async with self._news:
            self.calls.append(call)
            self._news.notify_all()
        result = self.tools[params.name].run(call[1])
        if inspect.isawaitable(result):
            result = await result
        self.done.append(call)
        if isinstance(result, mcp_types.CallToolResult):
            return result
        return mcp_types.CallToolResult(content=[mcp_types.TextContent(text=result)])


class Liar:
    """A server that speaks just enough of streamable HTTP to be listened to, and says what it is told to.

    ``answers``: by method, the result of it, or a function of the message's params that gives a result or a Response;
    of HTTP's own methods a function of the request that gives a Response;
    ``requests``: every message that came. What is not answered here is answered as a decent server would.
    """

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self._answers = {"initialize": _welcome, "ping": {}, **answers}
        self.url = ""
        self.requests: list[Any] = []

    async def __aenter__(self) -> Liar:
        self._stack = AsyncExitStack()
        self.url = await self._stack.enter_async_context(serving(self._app, interface="asgi3")) + "/mcp"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        if request.method != "POST":
            other = self._answers.get(request.method, lambda _: Response(status_code=405))
            return await other(request)(scope, receive, send)
        message = json.loads(await request.body())
        self.requests.append(message)
        if "id" not in message:
            return await Response(status_code=202)(scope, receive, send)
        answer = self._answers.get(message["method"])
        if callable(answer):
            answer = answer(message.get("params"))
            if inspect.isawaitable(answer):
                answer = await answer
        if not isinstance(answer, Response):
            answer = JSONResponse({"jsonrpc": "2.0", "id": message["id"], **_said(answer)})
        await answer(scope, receive, send)


def _said(answer: Any) -> dict[str, Any]:
    return {"error": {"code": -32601, "message": "Method not found"}} if answer is None else {"result": answer}


def _welcome(params: Any) -> dict[str, Any]:
    version = params["protocolVersion"]
    return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": {"name": "liar", "version": "1"}}


def _sse_app(server: Server[Any]) -> Any:
    """The old transport, as the SDK serves it."""
    transport = SseServerTransport("/messages/")

    async def listen(request: Request) -> Response:
        async with transport.connect_sse(request.scope, request.receive, request._send) as streams:
            await server.run(*streams, server.create_initialization_options())
        return Response()

    return Starlette(routes=[Route("/sse", listen), Mount("/messages/", app=transport.handle_post_message)])


@contextmanager
def sample() -> Iterator[str]:
    """The server of examples/ as a process of its own; gives its URL."""
    port = free_port()
    command = [sys.executable, str(EXAMPLE), f"--port={port}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: _listens(port, process))
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, f"{EXAMPLE} ended"
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def _alive(app: Any) -> AsyncIterator[None]:
    """The application's lifespan, in a task of its own, as its scopes want to be left where they were entered."""
    ready, over = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with app.router.lifespan_context(app):
            ready.set()
            await over.wait()

    task = asyncio.create_task(live())
    await ready.wait()
    try:
        yield
    finally:
        over.set()
        await task
