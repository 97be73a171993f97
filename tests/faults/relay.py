"""A wire between statecar and its store that can be cut, or be long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

_PIECE = 1 << 16


class Relay:
    """Passes connections on to a server. ``url``: what takes the server's place; ``delay``: seconds for each answer."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._port = 0
        self._server: asyncio.Server | None = None
        self._ways: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.delay = 0.0

    @property
    def url(self) -> str:
        return self._parts._replace(netloc=f"127.0.0.1:{self._port}").geturl()

    async def open(self) -> None:
        """Takes connections, after a cut at the same place."""
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Every connection is reset, and no more are taken."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._ways, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            beyond, out = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, out}
        ways = [asyncio.create_task(self._way(reader, out, late=False))]
        ways.append(asyncio.create_task(self._way(beyond, writer, late=True)))
        self._ways |= set(ways)
        await asyncio.wait(ways)
        self._ways -= set(ways)
        self._writers -= {writer, out}

    async def _way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, late: bool) -> None:
        try:
            while piece := await reader.read(_PIECE):
                if late and self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(piece)
        except OSError:
            pass
        finally:
            writer.transport.abort()


@asynccontextmanager
async def relayed(url: str) -> AsyncIterator[Relay]:
    """A relay to the server at this URL."""
    relay = Relay(url)
    await relay.open()
    try:
        yield relay
    finally:
        await relay.cut()
