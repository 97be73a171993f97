"""uvicorn's WebSocket protocol, as this server wants it."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class Protocol(WebSocketsSansIOProtocol):
    """Leaves it to the app when connections end with the process: uvicorn's cuts them off, turns and all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = 2.0  # for a peer that does not answer a close; uvicorn's 10 s hold up the process

    def shutdown(self) -> None:
        """The server ends."""
        if self.close_sent:
            super().shutdown()

    def handle_parser_exception(self) -> None:
        """A handshake or a frame that cannot be read; uvicorn's takes for granted that there was a handshake."""
        if self.conn.close_sent is None:
            self.transport.close()
        else:
            super().handle_parser_exception()
