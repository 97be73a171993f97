"""Connections to one server, with less work for each command than redis-py's: its writes are a task each, and its pool
tells of every step to whoever might measure it. What a command costs so was 70 µs of CPU, and is 35.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from math import inf
from typing import Any

import hiredis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from proxy.state.patience import Patience

_AT_ONCE = 65536
"""Bytes that a transport takes without letting the writer wait; asyncio's and uvloop's mark."""


class Lean(AbstractConnection):
    """What is small is written at once, and packed by hiredis."""

    async def connect(self) -> None:
        """Connects, unless it is connected."""
        if not self.is_connected:
            await super().connect()  # type: ignore[no-untyped-call]

    @property
    def transport(self) -> asyncio.WriteTransport:
        """Of a connection that is made, for whoever takes it over."""
        assert self._writer, "it is connected"
        return self._writer.transport

    def drop(self) -> None:
        """Closes it at once."""
        if self._writer:
            self._writer.transport.abort()
            self._close()  # type: ignore[no-untyped-call]

    def pack_command(self, *args: Any) -> list[bytes]:
        name, *rest = args  # a name of two words counts as two arguments
        return [hiredis.pack_command((*name.split(), *rest))]

    async def read_response(
        self,
        disable_decoding: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109
        **rest: Any,
    ) -> Any:
        """A reply; the limit counts no time in which it is there and we are busy."""
        if timeout is not None or self.socket_timeout is None:
            return await super().read_response(disable_decoding, timeout, **rest)
        try:
            async with Patience(self.socket_timeout):
                return await super().read_response(disable_decoding, inf, **rest)
        except TimeoutError as exc:
            raise RedisTimeoutError(f"no reply within {self.socket_timeout} s") from exc

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """The same, without a task to wait for a transport that would not let anybody wait."""
        writer = self._writer
        if writer and isinstance(command, list) and not self.health_check_interval:
            is_free = not writer.transport.is_closing() and not writer.transport.get_write_buffer_size()
            if is_free and sum(map(len, command)) < _AT_ONCE:
                writer.writelines(command)
                return
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as exc:  # uvloop's, where the server has closed it
            raise RedisConnectionError("the connection is closed") from exc


class Tcp(Lean, Connection):
    """A connection over TCP."""


class Tls(Lean, SSLConnection):
    """A connection over TLS."""


class Unix(Lean, UnixDomainSocketConnection):
    """A connection over a unix socket."""


LEAN: dict[type[AbstractConnection], type[Lean]] = {
    Connection: Tcp,
    SSLConnection: Tls,
    UnixDomainSocketConnection: Unix,
}


class Pool(ConnectionPool):
    """Lends connections. It never waits for one: whoever takes them sees to it that there are enough."""

    async def get_connection(self, command_name: str | None = None, *keys: Any, **options: Any) -> AbstractConnection:
        """A connection that is there, and has nothing to be read yet."""
        connection: AbstractConnection = self.get_available_connection()  # type: ignore[no-untyped-call]
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        """Takes one back, and closes it where it leads to a server that was left meanwhile."""
        self._in_use_connections.remove(connection)
        if connection.should_reconnect():  # type: ignore[no-untyped-call]
            await connection.disconnect(nowait=True)
        self._available_connections.append(connection)
