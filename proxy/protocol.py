"""uvicorn's protocols, as this server wants them."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_UNREADABLE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
"""To more than 128 headers, or one above 8 KiB: all that httptools lets through and websockets does not."""

_LEFT = 60.0
"""Seconds in which a client takes something of what is left for it when its connection has ended."""


class _Ended:
    """Ends a connection that is over though its client takes nothing: a closed transport waits for it for ever."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _end: asyncio.TimerHandle | None = None

    def _end_within(self, seconds: float) -> None:
        self._stay()
        self._end = self.loop.call_later(seconds, self._end_if_stuck, self.transport.get_write_buffer_size())

    def _end_if_stuck(self, left: int) -> None:
        """``left``: bytes that were not taken at the last look."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size() >= left:
            self.transport.abort()
        else:
            self._end_within(_LEFT)

    def _stay(self) -> None:
        if self._end:
            self._end.cancel()
            self._end = None


class _Head:
    """A transport that keeps an answer's head until its first bytes come, or the loop's next step: uvicorn writes both
    apart, and a write to a socket takes 20 us of the 600 of a plain request. After that the answer goes on without it.
    """

    def __init__(self, cycle: RequestResponseCycle, loop: asyncio.AbstractEventLoop) -> None:
        self._cycle, self._transport, self._loop = cycle, cycle.transport, loop
        self._kept = b""

    def write(self, data: bytes) -> None:
        """Keeps what comes first."""
        if self._kept:
            self._transport.writelines([self._kept, data])
            self._kept = b""
        else:
            self._kept = data
            self._loop.call_soon(self._go)

    def close(self) -> None:
        """Ends the connection once all is written."""
        self._go()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it has ended."""
        return self._transport.is_closing()

    def _go(self) -> None:
        self._cycle.transport = self._transport
        if self._kept:
            self._transport.write(self._kept)
            self._kept = b""


class Http(_Ended, HttpToolsProtocol):
    """Reads a request that offers an upgrade nobody takes up as if it did not.

    httptools stops behind the headers of every such request, and uvicorn drops the body with them; Java's own client
    offers ``h2c`` on each first request of a connection.
    """

    _data = _again = b""

    def pause_writing(self) -> None:
        """The client does not take what it is sent."""
        super().pause_writing()
        self._end_within(_LEFT)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._stay()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is no more."""
        super().connection_lost(exc)
        self._stay()

    def data_received(self, data: bytes) -> None:
        """What the client sends."""
        while data:
            self._data, self._again = data, b""
            super().data_received(data)
            data = self._again
        self._data = b""  # else a stream keeps its whole request

    def on_headers_complete(self) -> None:
        if self._is_read_again():
            return
        before = self.cycle
        super().on_headers_complete()
        if self.cycle and self.cycle is not before:
            self.headers = []  # for trailers: uvicorn adds them to the headers, which a gateway may have checked
            if self.scope["method"] != "HEAD":  # else nothing follows the head
                self.cycle.transport = _Head(self.cycle, self.loop)  # type: ignore[assignment]  # all that a cycle needs

    def on_message_complete(self) -> None:
        if not self._is_read_again():
            super().on_message_complete()

    def _is_read_again(self) -> bool:
        return self.parser.should_upgrade() and not self._should_upgrade()

    def _should_upgrade(self) -> bool:
        """Whether the request becomes a WebSocket: not one with a body, nor while another is being answered."""
        is_busy = self.cycle is not None and not self.cycle.response_complete
        return not is_busy and self.parser.get_method() == b"GET" and super()._should_upgrade()

    def _unsupported_upgrade_warning(self) -> None:
        """Called for each such request, with its headers read, while the parser's exception is handled."""
        [offset] = sys.exc_info()[1].args  # type: ignore[union-attr]
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                value = b",".join(token for token in value.split(b",") if token.strip().lower() != b"upgrade")
            lines.append(b"%b: %b" % (name, value))
        self.parser = type(self.parser)(self)
        self._again = b"\r\n".join([*lines, b"", self._data[offset:]])


class WebSocket(_Ended, WebSocketsSansIOProtocol):
    """Leaves it to the app when connections end with the process: uvicorn's cuts them off, turns and all. What a client
    sends or leaves untaken costs no more memory than the app allows.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = 2.0  # for a peer that does not answer a close; uvicorn's 10 s hold up the process
        self._whole = bytearray()
        self._pong = b""

    def shutdown(self) -> None:
        """The server ends."""
        if self.close_sent:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        """What the client sends. uvicorn's leaves a handshake that cannot be read without any answer, for ever."""
        super().data_received(data)
        if self.conn.handshake_exc and not self.handshake_initiated:
            self.transport.write(_UNREADABLE)
            self.transport.close()

    async def send(self, message: Any) -> None:
        """What the app sends; uvicorn calls it a mistake of the app where the server has closed the connection itself.
        Raises ClientDisconnected.
        """
        try:
            await super().send(message)
        except RuntimeError:
            if not self.close_sent:
                raise
            raise ClientDisconnected from None

    def handle_cont(self, event: Any) -> None:
        """A further piece of a message: they are joined as they come, or each of them would be kept as an object."""
        if self.frames:
            self._whole, self.frames = bytearray(self.frames[0]), []
        self._whole += event.data
        if event.fin:
            self.frames, self._whole = [bytes(self._whole)], bytearray()
            self.send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Answers, if the client takes what it is sent; else the last ping is answered when it does again."""
        self._pong = b"".join(self.conn.data_to_send()) or self._pong  # of all that came in one read, at the first
        if self.writable.is_set():
            self._answer_ping()

    def resume_writing(self) -> None:
        """The client has taken most of what was sent."""
        super().resume_writing()
        self._answer_ping()

    def _answer_ping(self) -> None:
        if self._pong and not self.transport.is_closing():
            self.transport.write(self._pong)
        self._pong = b""

    def keepalive_timeout(self) -> None:
        """The client has not answered a ping: it will hardly take what is left for it."""
        super().keepalive_timeout()
        self._end_within(self.close_timeout)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """The app is done with the connection."""
        super().on_task_complete(task)
        if not self.disconnected:
            self._end_within(_LEFT)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is no more."""
        super().connection_lost(exc)
        self._stay()
