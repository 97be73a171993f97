"""statecar on real sockets, its client and its backend both played by one other thread, in step: no byte is sent before
the one before it has been answered. So what the server's thread does is the same each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import redis
import uvloop

from bench.works import NOW, chunk, framed
from proxy.app import create_app
from proxy.cli import protocols
from proxy.observe import configure_logging, metrics
from proxy.settings import Settings
from tests.backend import PATIENCE, STREAM_END, STREAM_HEAD, chunked, json_reply, serving
from tests.budgets.counting import Count, start, stop, undisturbed
from tests.loggers import loggers_kept
from tests.routes.conftest import alive

RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
_MESSAGE = {"role": "assistant", "content": "The meeting had three points. " * 4}
_USAGE = {"prompt_tokens": 120, "completion_tokens": 32, "total_tokens": 152}
_PLAIN = {
    "id": "chatcmpl-0123456789abcdef0123456789abcdef",
    "object": "chat.completion",
    "created": NOW,
    "model": "plain",
    "choices": [{"index": 0, "message": _MESSAGE, "logprobs": None, "finish_reason": "stop"}],
    "usage": _USAGE,
}
_OPENING = chunked(framed(chunk({"role": "assistant", "content": ""})))
_ENDING = (
    chunked(framed(chunk({}, "stop")))
    + chunked(framed(chunk({}) | {"choices": [], "usage": _USAGE}))
    + chunked(b"data: [DONE]\n\n")
    + STREAM_END
)


class Driver:
    """Client and backend of a server, over blocking sockets. ``loop``: the server's, which runs in another thread."""

    _asked: socket.socket

    def __init__(self, port: int, backend: socket.socket, store: redis.Redis, loop: asyncio.AbstractEventLoop) -> None:
        self._listener, self._store, self._loop = backend, store, loop
        self._client = _joined(socket.create_connection(("127.0.0.1", port), PATIENCE))
        self._backends: list[socket.socket] = []
        self._nothing: Count | None = None

    def close(self) -> None:
        for sock in (self._client, *self._backends):
            sock.close()

    # -- requests

    def request(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The JSON answer to a request that no backend is asked for."""
        self._send(method, path, body)
        return self._answer()

    def plain(self, path: str = RESPONSES, **fields: Any) -> dict[str, Any]:
        """The answer to a request that the backend answers in one piece."""
        self._send("POST", path, _body(path, fields))
        self._as_backend(json_reply(_PLAIN))
        return self._answer()

    def begun(self, **fields: Any) -> dict[str, Any]:
        """A background response whose backend never answers."""
        response = self.request("POST", RESPONSES, _body(RESPONSES, fields | {"background": True}))
        self._as_backend(b"")
        return response

    @contextmanager
    def stream(self, path: str = RESPONSES, **fields: Any) -> Iterator[Callable[[int, int], None]]:
        """A stream that has begun and is ended at the end of the block. Gives what tells tokens ``first`` to ``last``
        one by one.
        """
        self._send("POST", path, _body(path, fields | {"stream": True}))
        self._as_backend(STREAM_HEAD + _OPENING)
        self._read(b"response.in_progress" if path == RESPONSES else b'"role"')

        def tell(first: int, last: int) -> None:
            for n in range(first, last):
                self._asked.sendall(_token(n))
                self._read(b"token%04d" % n)

        yield tell
        self._asked.sendall(_ENDING)
        self._read(STREAM_END)

    def flood(self, first: int, last: int) -> None:
        """Tokens of an open stream that lie there together when the server reads."""
        sent = threading.Event()
        self._loop.call_soon_threadsafe(sent.wait, PATIENCE)
        self._asked.sendall(b"".join(map(_token, range(first, last))))
        sent.set()
        self._read(b"token%04d" % (last - 1))

    # -- measures

    def counted(self, act: Callable[[], object]) -> Count:
        """What the server's thread does for an act of this driver's, to the end of what is left to be done after it."""
        if self._nothing is None:
            tries = [self._counted(bool) for _ in range(5)]
            self._nothing = min(tries, key=lambda count: count.calls.total())
        return self._counted(act).less(self._nothing)

    def _counted(self, act: Callable[[], object]) -> Count:
        count = Count()
        self._rest()
        with undisturbed():
            self._on_loop(lambda: start(count))
            try:
                act()
                self._rest()
            finally:
                self._on_loop(stop)
        return count

    def round_trips(self, act: Callable[[], object]) -> int:
        """How often the store reads from a connection meanwhile: once for what is sent to it at once."""
        self._rest()
        before = self._reads()
        act()
        self._rest()
        return self._reads() - before - 1

    def _reads(self) -> int:
        told: dict[str, Any] = self._store.info("stats")
        return int(told["total_reads_processed"])

    def _rest(self) -> None:
        """Waits until the server has done what is to be done."""
        for _ in range(20):
            self._on_loop(bool)

    def _on_loop(self, act: Callable[[], object]) -> None:
        done = threading.Event()

        def run() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(PATIENCE)

    # -- bytes

    def _send(self, method: str, path: str, body: Any) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-budgets\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        self._client.sendall(head.encode() + data)

    def _as_backend(self, reply: bytes) -> None:
        """Answers the request that is on its way to the backend, over whichever connection it comes."""
        self._asked = self._readable()
        data = _until(self._asked, b"\r\n\r\n")
        head, _, body = data.partition(b"\r\n\r\n")
        length = _length(head)
        while len(body) < length:
            body += self._asked.recv(1 << 20)
        self._asked.sendall(reply)

    def _readable(self) -> socket.socket:
        """The connection over which the backend is asked."""
        while True:
            ready, _, _ = select.select([self._listener, *self._backends], [], [], PATIENCE)
            assert ready, "the backend was not asked"
            for sock in ready:
                if sock is self._listener:
                    self._backends.append(_joined(sock.accept()[0]))
                elif sock.recv(1, socket.MSG_PEEK):
                    return sock
                else:
                    self._backends.remove(sock)
                    sock.close()

    def _answer(self) -> dict[str, Any]:
        data = _until(self._client, b"\r\n\r\n")
        head, _, body = data.partition(b"\r\n\r\n")
        while len(body) < _length(head):
            body += self._client.recv(1 << 20)
        assert head.startswith(b"HTTP/1.1 200"), data
        value: dict[str, Any] = json.loads(body)
        return value

    def _read(self, text: bytes) -> None:
        _until(self._client, text)


def _body(path: str, fields: dict[str, Any]) -> dict[str, Any]:
    asked = {"input": "Hi"} if path == RESPONSES else {"messages": [{"role": "user", "content": "Hi"}]}
    return {"model": "plain", **asked, **fields}


def _token(number: int) -> bytes:
    return chunked(framed(chunk({"content": f" token{number:04}"})))


def _joined(sock: socket.socket) -> socket.socket:
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _until(sock: socket.socket, text: bytes) -> bytes:
    data = b""
    while text not in data:
        more = sock.recv(1 << 20)
        assert more, f"{data!r} and no more, instead of {text!r}"
        data += more
    return data


def _length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"content-length:")
    return int(rest.split(b"\r\n")[0]) if found else 0


def driven(store: str, drive: Callable[[Driver], Any], *options: str) -> Any:
    """What ``drive`` gives, beside a server over that store with these options: on uvloop, as it is served."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_driven(store, drive, options))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


async def _driven(store: str, drive: Callable[[Driver], Any], options: Sequence[str]) -> Any:
    with socket.create_server(("127.0.0.1", 0)) as backend, redis.Redis.from_url(store) as admin:
        async with _served(backend.getsockname()[1], store, options) as port:
            driver = Driver(port, backend, admin, asyncio.get_running_loop())
            try:
                return await asyncio.to_thread(drive, driver)
            finally:
                driver.close()


@asynccontextmanager
async def _served(upstream: int, store: str, options: Sequence[str]) -> AsyncIterator[int]:
    flags = [f"--upstream=http://127.0.0.1:{upstream}/v1", "--upstream-kind=vllm", f"--store={store}"]
    settings = Settings.resolve([*flags, *options], {})
    app = create_app(settings)
    with _logging(settings), pytest.MonkeyPatch.context() as patch:
        # figures are added up by the clock, for all tokens since the last time: a slow machine does so in every try
        patch.setattr(metrics, "_SOON", 3600)
        async with alive(app), serving(app, **protocols(settings)) as url:
            yield int(url.rpartition(":")[2])


@contextmanager
def _logging(settings: Settings) -> Iterator[None]:
    """Log lines are made as they are in service, and thrown away; then loggers are as they were."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere), loggers_kept():
        configure_logging(settings.log_format, settings.log_level)
        yield
