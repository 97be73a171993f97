"""One connection to the upstream: a request goes out, its answer comes in, and then perhaps the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable

import httpx
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

_DULL = 64 * 1024  # bytes that a head may have, and anything else that is no body, chunk sizes and trailers for example
_FULL = 256 * 1024  # bytes that wait for their reader before the socket is read no further
_JOINED = 64 * 1024  # bytes up to which it is cheaper to copy a body than to write it by itself


class Connection(asyncio.Protocol):
    """A socket that carries one request at a time.

    ``status``: of the answer, 0 until its head has come; ``headers``: its headers, trailers left out; ``parts``: what
    has come of its body and was not taken; ``over``: the answer is whole, or there was no request yet; ``failure``: why
    it will never be, if it is not. ``keeps``: whether the other side serves another request here. ``lost`` is called
    once the socket is closed.
    """

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, lost: Callable[[Connection], None]) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []
        self.over = True
        self.keeps = True
        self.failure: httpx.TransportError | None = None
        self._loop, self._lost = loop, lost
        self._waiter: asyncio.Future[None] | None = None
        self._since = 0.0
        self._limit: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.came = 0
        self._paused = False
        self._upload: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._bodiless = False
        self._renew()

    def _renew(self) -> None:
        """A parser for the next answer; it looks up its callbacks now, so that a body costs no call of ours."""
        self.on_body = _refuse if self._bodiless else self.parts.append
        self._parser = HttpResponseParser(self)
        # as aiohttp reads: a bare LF ends a line, spaces may follow a chunk's size, header values hold any byte
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    # --- the request

    def send(
        self, head: bytes, body: bytes | AsyncIterable[bytes], *, bodiless: bool = False, chunked: bool = False
    ) -> None:
        """Begin a request. ``bodiless``: its answer has none, whatever it says (HEAD). ``chunked``: how parts go."""
        self.status, self.headers, self.over, self.came = 0, [], False, 0
        if bodiless or self._bodiless:
            self._bodiless = bodiless
            self._renew()
        if self.transport.is_closing():  # the other side took it and closed it again
            self.cut()
        elif not isinstance(body, bytes):
            self.transport.write(head)
            self._upload = self._loop.create_task(self._send_parts(body, chunked))
            self._upload.add_done_callback(self._sent)
        elif len(body) <= _JOINED:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    async def _send_parts(self, parts: AsyncIterable[bytes], chunked: bool) -> None:
        async for part in parts:
            if part:
                self.transport.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            if self._room is not None:
                await self._room
        if chunked:
            self.transport.write(b"0\r\n\r\n")

    def _sent(self, upload: asyncio.Task[None]) -> None:
        if not upload.cancelled() and (exc := upload.exception()) is not None:
            error = httpx.WriteError("the body to be sent broke off")
            error.__cause__ = exc
            self.fail(error)

    def pause_writing(self) -> None:
        """The other side does not take what it is sent."""
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """It does again."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    # --- waiting for the answer

    @property
    def silent(self) -> bool:
        """Whether not a byte of the answer has come."""
        return not self.status and not self.came

    async def head(self, since: float) -> None:
        """Wait for the answer's head. ``since``: when the request began. Raises ``failure``."""
        while not self.status:
            if self.failure is not None:
                raise self.failure
            news = self.news()
            self._since = since
            await news

    def news(self) -> asyncio.Future[None]:
        """What is done as soon as something has come, good or bad: a part of the head, or of the body, or its end."""
        self._since = self._loop.time()
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def take(self) -> bytes:
        """All that has come of the body, as one; there must be something."""
        parts, self.came = self.parts, 0
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        return data

    def limit(self, seconds: float | None, since: float | None = None) -> None:
        """From now on no wait may take longer; one timer looks, and seldom, as most waits are short."""
        if self._timer is not None:
            self._timer.cancel()
        self._limit, self._timer = seconds, None
        if seconds is not None:
            self._timer = self._loop.call_at((since or self._loop.time()) + seconds, self._look)

    def _look(self) -> None:
        assert self._limit is not None
        now = self._loop.time()
        ends = (now if self._waiter is None else self._since) + self._limit
        if ends > now:
            self._timer = self._loop.call_at(ends, self._look)
        else:
            self.fail(httpx.ReadTimeout("nothing came in time"))

    # --- the end

    def fail(self, error: httpx.TransportError) -> None:
        """The answer will never be whole: close, and tell whoever waits."""
        self.failure = self.failure or error
        self.cut()
        self._wake()

    def cut(self) -> None:
        """Close at once; a mere close() would wait until the other side has taken what is still to be sent."""
        self.keeps = False
        self.failure = self.failure or httpx.ReadError("the connection was closed")
        self._settle()
        self.transport.abort()

    def free(self) -> bool:
        """Forget the request; whether another one may follow it here."""
        self._settle()
        if self.parts:
            self.take()
        return self.over and self.keeps and self._room is None  # or else the next one would wait behind what is unsent

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._upload is not None:
            self.keeps = False  # whole or not, nobody knows whether the other side has taken it
            self._upload.cancel()
            self._upload = None

    def close(self) -> None:
        """Close an idle connection."""
        self.keeps = False
        self.transport.close()

    # --- what the socket says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket, or what TLS makes of it."""
        self.transport = transport  # type: ignore[assignment]  # uvloop's is no asyncio.Transport by class

    def data_received(self, data: bytes) -> None:
        """One read of the socket; whatever comes unasked ends the connection."""
        if self.over:
            self.cut()
            return
        self.came += len(data)
        headed = self.status
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self.keeps = False  # if the answer is over: then this came after it
            self.fail(httpx.RemoteProtocolError("the answer is not valid HTTP"))
            return
        if self.came > _DULL:
            self._weigh()
        if self.parts or self.over or not headed:  # framing is nothing that a reader waits for: its limit goes on
            self._wake()

    def _weigh(self) -> None:
        """Much has come that nobody took: all of it in bounds, or too much of it."""
        if not self.parts and not self.over:
            self.fail(httpx.RemoteProtocolError("the answer's head is too long"))
        elif self.came > _FULL and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def eof_received(self) -> None:
        """The other side has closed."""
        self._close_in(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed, by whoever it was."""
        self._close_in(exc)
        del self._parser, self.on_body  # both lead back here
        self._lost(self)

    def _close_in(self, exc: Exception | None) -> None:
        self.keeps = False
        if exc is None and self.status and self.failure is None and _ends_with_connection(self.headers):
            self.over = True
        if self.over:
            self._settle()
            self._wake()
        else:
            error = httpx.ReadError("the connection was closed")
            error.__cause__ = exc
            self.fail(error)

    # --- what the parser finds

    def on_message_begin(self) -> None:
        """An answer begins; one that nobody asked for is an error."""
        if self.over:
            raise ValueError

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, of the head or of the trailers."""
        if b"\0" in value:
            raise ValueError
        if not self.status:
            self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """A head has come: the answer's, or an interim one (100, 103), of which nothing is kept."""
        status = self._parser.get_status_code()
        if self.came > _DULL and sum(len(name) + len(value) + 4 for name, value in self.headers) > _DULL:
            raise ValueError
        if status < 200 and status != 101:
            if status < 100:
                raise ValueError
            self.headers.clear()
            return
        self.status = status
        if self._bodiless:
            self.over, self.keeps = True, False  # nothing tells whether a body follows all the same

    def on_message_complete(self) -> None:
        """The end of an answer, unless it was an interim one."""
        if self.status and not self.over:
            self.over = True
            self.keeps = self._parser.should_keep_alive()


def _refuse(_: bytes) -> None:
    raise ValueError


def _ends_with_connection(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether an answer that is not over has no other end than its connection's."""
    values = {name.lower(): value for name, value in headers}
    coding = values.get(b"transfer-encoding")
    if coding is not None:
        return not coding.lower().endswith(b"chunked")
    return b"content-length" not in values
