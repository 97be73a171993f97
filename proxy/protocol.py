"""uvicorn's WebSocket protocol, as this server wants it."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_UNREADABLE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
"""To more than 128 headers, or one above 8 KiB: all that httptools lets through and websockets does not."""


class Protocol(WebSocketsSansIOProtocol):
    """Leaves it to the app when connections end with the process: uvicorn's cuts them off, turns and all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = 2.0  # for a peer that does not answer a close; uvicorn's 10 s hold up the process

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
