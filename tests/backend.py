"""A scripted HTTP server on a real socket, and a real uvicorn for the application in front of it.

    async with Backend() as backend:
        backend.script(stream({"choices": []}, DONE))            # the answer to the first request
        backend.script(reply(b"no", status=500), CLOSE)          # to the second
        ...                                                      # talk to backend.url
        request = await backend.received(1)                      # what the first one was, byte for byte

A script is a row of steps: bytes are sent as they are, an ``asyncio.Event`` is waited for, ``CLOSE`` and ``RESET`` end
the connection. Without a script a request is answered with ``Backend.default``.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import uvicorn

PATIENCE = 20.0
"""Seconds after which waiting for an event fails the test."""

DONE = "[DONE]"


@dataclass(frozen=True)
class End:
    """A step that ends the connection; ``reset``: so that the peer's next read fails."""

    reset: bool


CLOSE = End(reset=False)
RESET = End(reset=True)

Step = bytes | asyncio.Event | End


@dataclass
class Request:
    """One request as it came. ``connection``: a number, equal for requests that shared one."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    connection: int
    head: bytes
    body: bytes = b""
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def values(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def reply(body: bytes = b"", *, status: int = 200, headers: tuple[str, ...] = (), length: bool = True) -> bytes:
    """A whole answer; ``headers``: lines such as ``x-name: value``. ``length``: whether a content-length is added."""
    lines = [f"HTTP/1.1 {status} Some Reason", *headers]
    if length:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def json_reply(value: Any, *, status: int = 200, headers: tuple[str, ...] = ()) -> bytes:
    """A whole JSON answer."""
    return reply(json.dumps(value).encode(), status=status, headers=("content-type: application/json", *headers))


def completion(text: str = "Hi") -> dict[str, Any]:
    """A plain chat completion."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    """A chat completion chunk."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def talk(*texts: str) -> list[Any]:
    """The payloads of a usual stream that says these texts."""
    return [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": t}) for t in texts),
        chunk({}, "stop"),
        DONE,
    ]


def sse(*payloads: Any) -> bytes:
    """Frames of an event stream; a str is sent as it is, anything else as JSON."""
    texts = [payload if isinstance(payload, str) else json.dumps(payload) for payload in payloads]
    return "".join(f"data: {text}\n\n" for text in texts).encode()


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


def chunked(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream(*payloads: Any) -> bytes:
    """A whole event stream."""
    return STREAM_HEAD + b"".join(chunked(sse(payload)) for payload in payloads) + STREAM_END


class Backend:
    """The server. ``url``: its base, ending in ``/v1``; ``requests``: all that have come, oldest first.

    ``path``: listen on this unix socket instead. ``early``: run scripts at the head, not after the whole body.
    """

    default: tuple[Step, ...] = (json_reply(completion()),)

    def __init__(self, path: str | None = None, *, early: bool = False) -> None:
        self.url = ""
        self.requests: list[Request] = []
        self.early = early
        self._path = path
        self._scripts: deque[tuple[Step, ...]] = deque()
        self._news = asyncio.Condition()
        self._connections: list[_Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def script(self, *steps: Step) -> None:
        """The answer to the next request that has none yet."""
        self._scripts.append(steps)

    async def received(self, count: int) -> Request:
        """The ``count``-th request, 1 being the first, as soon as its head is there."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    @property
    def connections(self) -> int:
        """How many connections have been made."""
        return len(self._connections)

    @property
    def open_connections(self) -> int:
        """How many the peer has not closed."""
        return sum(not connection.gone.is_set() for connection in self._connections)

    def stall(self) -> None:
        """Take nothing more of what is sent here."""
        for connection in self._connections:
            connection.transport.pause_reading()

    async def drop_idle(self) -> None:
        """Close every connection from our side."""
        for connection in self._connections:
            connection.transport.close()

    async def __aenter__(self) -> Backend:
        loop = asyncio.get_running_loop()
        if self._path:
            self._server = await loop.create_unix_server(self._accept, self._path)
            self.url = f"http+unix://{quote(self._path, safe='')}/v1"
        else:
            self._server = await loop.create_server(self._accept, "127.0.0.1", 0, backlog=2048)
            self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self._connections:
            connection.transport.abort()

    def _accept(self) -> _Connection:
        connection = _Connection(self, len(self._connections))
        self._connections.append(connection)
        return connection

    def start(self, request: Request, connection: _Connection) -> None:
        """A request's head has come (called by the connection)."""
        self.requests.append(request)
        steps = self._scripts.popleft() if self._scripts else self.default
        task = asyncio.get_running_loop().create_task(self._play(request, connection, steps))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _play(self, request: Request, connection: _Connection, steps: tuple[Step, ...]) -> None:
        async with self._news:
            self._news.notify_all()
        if not self.early:
            await request.complete.wait()
        for step in steps:
            if connection.transport.is_closing():
                return
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, End):
                connection.end(step)
            else:
                connection.transport.write(step)
                await asyncio.sleep(0)  # let it leave before the next step, so that steps are reads


class _Connection(asyncio.Protocol):
    transport: Any  # uvloop's is no asyncio.Transport

    def __init__(self, backend: Backend, number: int) -> None:
        self.gone = asyncio.Event()
        self._backend = backend
        self._number = number
        self._buffer = b""
        self._request: Request | None = None
        self._left: int | None = 0  # bytes of the body to come, None: chunked

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def eof_received(self) -> None:
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def end(self, how: End) -> None:
        if how.reset:
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._buffer and self._advance():
            pass

    def _leave(self) -> None:
        self.gone.set()
        if self._request is not None:
            self._request.gone.set()

    def _advance(self) -> bool:
        """Take what can be taken from the buffer; False when more is needed."""
        if self._request is None or self._request.complete.is_set():
            return self._take_head()
        return self._take_sized(self._request) if self._left is not None else self._take_chunk(self._request)

    def _take_head(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        self._buffer = rest
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        pairs = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        self._request = request = Request(method, target, pairs, self._number, head)
        self._left = (
            None if request.values("transfer-encoding") else int((request.values("content-length") or ["0"])[0])
        )
        if self._left == 0:
            request.complete.set()
        self._backend.start(request, self)
        return True

    def _take_sized(self, request: Request) -> bool:
        assert self._left is not None
        request.body += self._buffer[: self._left]
        taken = min(self._left, len(self._buffer))
        self._buffer, self._left = self._buffer[taken:], self._left - taken
        if self._left == 0:
            request.complete.set()
        return True

    def _take_chunk(self, request: Request) -> bool:
        size, found, rest = self._buffer.partition(b"\r\n")
        if not found or len(rest) < int(size, 16) + 2:
            return False
        length = int(size, 16)
        request.body += rest[:length]
        self._buffer = rest[length + 2 :]
        if length == 0:
            request.complete.set()
        return True


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[str]:
    """A real uvicorn for ``app`` on 127.0.0.1, in this loop; gives its URL, without a path."""
    options = {"http": "httptools", "lifespan": "off", "date_header": False, "server_header": False} | options
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=2, **options)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does so only where it made the socket
        await server.startup(sockets=[listener])
        await server.on_tick(0)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            asyncio.get_running_loop().remove_reader(listener)
            for _ in range(3):  # a connection that was just accepted becomes one of the server's
                await asyncio.sleep(0)
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            for task in list(server.server_state.tasks):
                task.cancel()
            for each in server.servers:  # server.shutdown() would wait 0.1 s for what is no more there
                each.close()


async def converse(url: str, request: bytes) -> bytes:
    """Send raw bytes to a server and give everything it answers until it closes the connection."""
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        async with asyncio.timeout(PATIENCE):
            return await reader.read()
    finally:
        writer.close()
