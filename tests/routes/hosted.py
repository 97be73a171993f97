"""What tests of tools that run here share: requests, what a model says to call them, servers of one test."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from tests.backend import DONE, chunk, stream
from tests.callers import Caller
from tests.mcp_servers import McpServer
from tests.routes.test_background import eventually

ALLOWED = "--mcp-allow=127.0.0.1"
FIND = ("docs__search", '{"q":"x"}')
"""The call of tests/golden/mcp.jsonl."""


def docs(server, **more):
    """The mcp tool of a server, which needs no leave."""
    return {"type": "mcp", "server_label": "docs", "server_url": server.url, "require_approval": "never"} | more


def called(*calls, text="", finish="tool_calls", **more):
    """A stream that calls tools, each (name, arguments)."""
    deltas = [{"content": text}] if text else []
    for at, (name, arguments) in enumerate(calls):
        given = arguments if isinstance(arguments, str) else json.dumps(arguments)
        function = {"name": name, "arguments": given}
        deltas.append({"tool_calls": [{"index": at, "id": f"c{at}{name}", "type": "function", "function": function}]})
    return _stream(deltas, finish, **more)


def said(text, finish="stop", **more):
    """A stream that answers."""
    return _stream([{"content": text}], finish, **more)


def _stream(deltas, finish, *, usage=None, model="m"):
    last = chunk({}, finish) | ({"usage": usage} if usage else {})
    return stream(*({**each, "model": model} for each in (*map(chunk, deltas), last)), DONE)


@asynccontextmanager
async def at(serve, *tools, options=(), **rest):
    """(a caller of a server that may use it, an MCP server with these tools)."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(McpServer(*tools))
        caller = await stack.enter_async_context(Caller(await serve(ALLOWED, *options, **rest)))
        yield caller, server
        with suppress(TimeoutError):  # one whose last call was cut off says none
            async with asyncio.timeout(1):
                await eventually(lambda: asyncio.sleep(0, _is_left(server)))


def _is_left(server):
    """Whether every session with a server has said goodbye, so that none is cut by the server's end."""
    opened = sum(method == "POST" and "mcp-session-id" not in headers for method, headers in server.requests)
    return sum(method == "DELETE" for method, _ in server.requests) >= opened


def types(items):
    return [item["type"] for item in items]


def messages(backend, number=-1):
    """(role, what it says or calls) of each message that the model was sent."""
    out = []
    for message in backend.requests[number].json["messages"]:
        calls = [(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or ()]
        out.append((message["role"], calls or message["content"]))
    return out


def offered(backend, number=-1):
    return [tool["function"]["name"] for tool in backend.requests[number].json.get("tools") or ()]
