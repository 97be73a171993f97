"""Which servers a request may name: by host before anything is sent, by address when a connection is made.

A URL in a request is written by a stranger, and this server stands where the stranger does not: near metadata services,
databases, consoles. So a host must be allowed by the operator, and every address it resolves to must be public, or lie
in a network the operator named. The connection goes to an address that was looked at, never to the name once more, so a
name that resolves to something else a moment later changes nothing. Addresses that stand for others (IPv4 within IPv6)
are judged by what they stand for.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolver = Callable[[str, int], Awaitable[Iterable[str]]]
"""The addresses of a name, as text, in the order to be tried. Raises OSError where it has none."""

LONGEST_URL = 2048
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_PORTS = {"http": 80, "https": 443}


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


_NEVER = _networks(
    "0.0.0.0/8",
    "169.254.0.0/16",  # link-local: the metadata service of AWS, Azure, GCP, Oracle, DigitalOcean, Tencent, OpenStack
    "168.63.129.16/32",  # Azure's host
    "100.100.100.200/32",  # Alibaba's metadata service
    "192.0.0.192/32",  # Oracle's, of old
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "fe80::/10",
    "fd00:ec2::/32",  # AWS, metadata and pod identity
    "fd20:ce::/64",  # GCP
    "ff00::/8",
    "2001::/32",  # Teredo: an address of somebody else's, by way of a relay
)
"""What no option opens."""

_SPECIAL = _networks(
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "2001::/23",
    "2001:db8::/32",
    "3fff::/20",
)
"""What is not public, of IPv4 and of 2000::/3, by IANA's registries of special-purpose addresses."""

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_MAPPED_AT_ZERO = IPv6Network("::/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_ISATAP = (0x00005EFE, 0x02005EFE)


class Refused(ValueError):
    """A host or an address that may not be asked; the message says why, for users, and tells no address of a name."""


@dataclass(frozen=True)
class Target:
    """A URL taken apart. ``host``: lower case, an IPv6 address without brackets; ``url``: the same URL, canonical."""

    url: str
    host: str
    port: int


def target(url: str) -> Target:
    """``url`` as every parser reads it. Raises Refused for one that two parsers might read differently."""
    if len(url) > LONGEST_URL or not url.isascii() or not url.isprintable() or re.search(r"[\s\\]", url):
        raise Refused(f"must be a URL in ASCII, without spaces and backslashes, of {LONGEST_URL} characters at most")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise Refused("must be a URL, as https://example.com/mcp") from None
    if parts.scheme not in _PORTS:
        raise Refused("must be a URL that begins with https:// or http://")
    if "@" in parts.netloc:
        raise Refused("must not hold a user name or a password: use 'authorization' or 'headers'")
    split = _AUTHORITY.fullmatch(parts.netloc)
    if not split:
        raise Refused("must name a host, as https://example.com/mcp; names that are not ASCII in their xn-- form")
    host, port = _host(split[1]), int(split[2] or _PORTS[parts.scheme])
    if not 0 < port < 65536:
        raise Refused("must name a port from 1 to 65535")
    shown = f"[{host}]" if ":" in host else host
    written = f"{parts.scheme}://{shown}{'' if port == _PORTS[parts.scheme] else f':{port}'}{parts.path or '/'}"
    return Target(written + (f"?{parts.query}" if parts.query else ""), host, port)


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return IPv6Address(text[1:-1]).compressed
        except ValueError:
            raise Refused("must name a host; this is no IPv6 address") from None
    host = text.lower().removesuffix(".")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise Refused("must name a host; addresses are written as 192.0.2.1") from None
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise Refused("must name a host, as https://example.com/mcp")
    return host


@dataclass(frozen=True)
class Allowed:
    """An entry of ``--mcp-allow``. ``host``: a name, ``*.name``, ``*``, or an address; ``port``: None for any."""

    host: str
    port: int | None

    @classmethod
    def read(cls, text: str) -> Allowed:
        """An entry as written: ``NAME``, ``*.NAME``, ``*`` or an address, each with ``:PORT`` or without."""
        if text.count(":") > 1 and not text.startswith("["):
            return cls(IPv6Address(text).compressed, None)
        name, _, port = text.rpartition(":") if re.search(r":[0-9]+\Z", text) else (text, "", "")
        wild = "*." if name.startswith("*.") else ""
        return cls(name if name == "*" else wild + _host(name.removeprefix("*.")), int(port) if port else None)

    def covers(self, host: str, port: int) -> bool:
        if self.port not in (None, port):
            return False
        return self.host in ("*", host) or (self.host.startswith("*.") and host.endswith(self.host[1:]))


@dataclass(frozen=True)
class Guard:
    """The operator's ``--mcp-allow`` and ``--mcp-private``, and how names are resolved."""

    allow: tuple[Allowed, ...]
    private: tuple[Network, ...]
    resolve: Resolver

    def permit(self, host: str, port: int) -> None:
        """Raises Refused for a host that is not allowed, and for an address that may not be asked."""
        covering = [entry for entry in self.allow if entry.covers(host, port)]
        if not covering:
            shown = f"[{host}]" if ":" in host else host
            raise Refused(
                f"names {shown}:{port}, which is not allowed here (the operator allows hosts with --mcp-allow)"
            )
        if (address := _literal(host)) is not None:
            self._judge(address, named=any(entry.host == host for entry in covering))

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses to be asked for ``host``, every one looked at. Raises Refused; OSError without any."""
        self.permit(host, port)
        if _literal(host) is not None:
            return [host]
        found = [ip_address(text.partition("%")[0]) for text in await self.resolve(host, port)]
        for address in found:
            self._judge(address, named=False)
        if not found:
            raise OSError("no address")
        return list(dict.fromkeys(map(str, found)))

    def _judge(self, address: Address, *, named: bool) -> None:
        for face in _faces(address):
            if _within(face, _NEVER):
                raise Refused("names a server whose address is never asked (link-local, metadata, multicast, reserved)")
            if not (named or _is_public(face) or _within(face, self.private)):
                raise Refused(
                    "names a server whose address is not public (the operator opens networks with --mcp-private)"
                )


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return not _within(address, _SPECIAL)


def _faces(address: Address) -> list[Address]:
    """The addresses that one stands for: those within it, or itself."""
    if isinstance(address, IPv4Address):
        return [address]
    number = int(address)
    if address.ipv4_mapped or address in _NAT64 or (address in _MAPPED_AT_ZERO and number > 0xFFFF):
        return [IPv4Address(number & 0xFFFFFFFF)]
    if address in _SIX_TO_FOUR:
        return [IPv4Address(number >> 80 & 0xFFFFFFFF)]
    if number >> 32 & 0xFFFFFFFF in _ISATAP:
        return [address, IPv4Address(number & 0xFFFFFFFF)]
    return [address]
