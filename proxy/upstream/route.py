"""How the upstream is reached: at its addresses, at its unix socket, or over the proxy that the environment names."""

from __future__ import annotations

import asyncio
import socket
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx

from proxy.upstream.connection import Connection

_HEAD_START = 0.25  # seconds that an address has before the next one is tried beside it (RFC 8305 §5)
_RESOLVED = 10.0  # seconds that addresses are used; a burst of 1000 streams asks once


class Route:
    """The way to ``origin``, or to the unix socket ``path``.

    ``prefix``: what goes before a request's target; ``headers``: lines for every request, both for a proxy. Raises
    ValueError for a proxy that cannot be used, OSError for a SSL_CERT_FILE.
    """

    def __init__(self, origin: httpx.URL, path: str | None) -> None:
        proxy = None if path else _proxy_for(origin)
        secure = origin.scheme == "https"
        self._origin, self._path, self._first = origin, path, proxy or origin
        self._tunnel = proxy is not None and secure
        # without TLS on the way no certificates need be loaded, which takes 30 ms
        self._tls = httpx.create_ssl_context() if secure or self._first.scheme == "https" else None
        self._credentials = _credentials(proxy) if proxy else b""
        relayed = proxy is not None and not secure
        self.prefix = b"http://" + origin.netloc if relayed else b""
        self.headers = self._credentials if relayed else b""
        self._lookup: asyncio.Future[list[tuple[Any, ...]]] | None = None
        self._stale = 0.0

    async def connect(self, make: Callable[[], Connection]) -> Connection:
        """A new connection. Raises httpx.ConnectError, with its cause, or httpx.ProxyError."""
        loop = asyncio.get_running_loop()
        taken = None
        try:
            if self._path:
                return (await loop.create_unix_connection(make, self._path))[1]
            taken = await self._dial()
            secure = self._first.scheme == "https"
            tls, name = (self._tls, _name(self._first)) if secure else (None, None)
            _, connection = await loop.create_connection(make, sock=taken, ssl=tls, server_hostname=name)
            if self._tunnel:
                await self._through(connection)
        except (OSError, UnicodeError, OverflowError) as exc:  # the last two of a name or port that is none
            if taken is None and self._first is not self._origin:
                raise httpx.ProxyError("its proxy cannot be reached") from exc
            raise httpx.ConnectError(str(exc)) from exc
        return connection

    async def _through(self, connection: Connection) -> None:
        """Make the proxy's connection one to the origin."""
        loop = asyncio.get_running_loop()
        target = self._origin.netloc if self._origin.port else self._origin.netloc + b":443"
        head = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (target, target, self._credentials)
        try:
            connection.send(head, b"", bodiless=True)
            await connection.head(loop.time())
            if not 200 <= connection.status <= 299:
                raise httpx.ProxyError(f"its proxy answered {connection.status}")
            if connection.transport.is_closing():  # more came with its answer, or the end
                raise httpx.ReadError("the proxy does not lead on")
            assert self._tls is not None
            raw, name = connection.transport, _name(self._origin)
            secure = await loop.start_tls(raw, connection, self._tls, server_hostname=name)
            if secure is None:
                raise ConnectionAbortedError("the connection was closed")
            connection.connection_made(secure)
        except (httpx.ReadError, httpx.RemoteProtocolError) as exc:
            raise httpx.ProxyError("its proxy gave no answer") from exc
        except BaseException:
            connection.cut()
            raise

    async def _dial(self) -> socket.socket:
        """A socket that is connected to the first address that takes it."""
        addresses = await self._resolved()
        try:
            return await _raced(addresses)
        except BaseException:  # in time, or at all: it may have moved
            self._stale = 0.0
            raise

    async def _resolved(self) -> list[tuple[Any, ...]]:
        """The addresses; one lookup, which takes a thread, serves all, and outlives those who give up."""
        loop = asyncio.get_running_loop()
        if self._lookup is None or (self._lookup.done() and loop.time() >= self._stale):
            port = self._first.port or (443 if self._first.scheme == "https" else 80)
            found = loop.getaddrinfo(self._first.raw_host.decode(), port, type=socket.SOCK_STREAM)
            self._lookup = asyncio.ensure_future(found)
            self._lookup.add_done_callback(self._looked_up)
        return await asyncio.shield(self._lookup)

    def _looked_up(self, lookup: asyncio.Future[list[tuple[Any, ...]]]) -> None:
        failed = lookup.cancelled() or lookup.exception() is not None
        self._stale = 0.0 if failed else lookup.get_loop().time() + _RESOLVED


async def _raced(addresses: list[tuple[Any, ...]]) -> socket.socket:
    """The first socket that is connected; an address is tried beside those before once one of them has failed or their
    head start is over. Raises OSError, the first address's.

    asyncio's ``staggered_race`` does this too, and keeps the caller's whole context in a cycle for the collector.
    """
    if len(addresses) < 2:
        if addresses:
            return await _connected(*addresses[0])
        raise OSError("its name has no address")
    tries: list[asyncio.Task[socket.socket]] = []
    left, trying, winner = iter(addresses), set[asyncio.Task[socket.socket]](), None
    try:
        while winner is None:
            if address := next(left, None):
                tries.append(asyncio.create_task(_connected(*address)))
                trying.add(tries[-1])
            elif not trying:
                return await tries[0]  # which raises
            limit = _HEAD_START if address else None
            _, trying = await asyncio.wait(trying, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            winner = next(filter(_has_come, tries), None)
        return winner.result()
    finally:
        for each in tries:
            if not each.cancel() and _has_come(each) and each is not winner:  # two may have come at once
                each.result().close()
        tries.clear()  # an error that is raised would be a cycle with what it passes


def _has_come(connecting: asyncio.Task[socket.socket]) -> bool:
    return connecting.done() and not connecting.cancelled() and connecting.exception() is None


async def _connected(family: int, kind: int, protocol: int, _name: str, address: tuple[Any, ...]) -> socket.socket:
    taken = socket.socket(family, kind, protocol)
    try:
        taken.setblocking(False)
        taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(taken, address)
    except BaseException:
        taken.close()
        raise
    return taken


def _name(url: httpx.URL) -> str:
    """The host as its certificate names it."""
    return url.raw_host.decode().rstrip(".")


def _proxy_for(origin: httpx.URL) -> httpx.URL | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for this origin."""
    given = getproxies().get(origin.scheme)
    if not given or proxy_bypass(origin.host):
        return None
    try:
        proxy = httpx.URL(given if "://" in given else f"http://{given}")
    except httpx.InvalidURL:
        raise ValueError(f"{origin.scheme.upper()}_PROXY is no URL") from None
    if proxy.scheme not in ("http", "https") or not proxy.host:
        raise ValueError(
            f"{origin.scheme.upper()}_PROXY names no proxy of http:// or https://, and no others can be used"
        )
    return proxy


def _credentials(proxy: httpx.URL) -> bytes:
    """The header line that a proxy wants of its user, if its URL names one."""
    if not proxy.userinfo:
        return b""
    return b"Proxy-Authorization: Basic %b\r\n" % b64encode(f"{proxy.username}:{proxy.password}".encode())
