"""What a store's URL says, read once: how to reach it, and what to tell redis-py.

redis-py's own retries are off: by default they send a script up to ten times, and a paused server runs all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

ATTEMPT = 0.9
"""Seconds to connect, and seconds to wait for a reply: two attempts fit into the limit of an operation."""

SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")

_SENTINEL_PORT = 26379
_BOUNDS = {
    "socket_timeout": ATTEMPT,
    "socket_connect_timeout": ATTEMPT,
    "protocol": 2,
    "driver_info": None,  # one round trip less for every connection
}


@dataclass(frozen=True)
class Address:
    """``options``: of redis-py's connections to the store. ``sentinels``: who is asked for the primary of ``service``,
    with ``sentinel_options``; empty where the URL names the store itself.
    """

    options: dict[str, Any]
    is_cluster: bool = False
    sentinels: list[tuple[str, int]] = field(default_factory=list)
    service: str = ""
    sentinel_options: dict[str, Any] = field(default_factory=dict)


def address_of(url: str, reply: float = ATTEMPT) -> Address:
    """``reply``: seconds to wait for one. Raises ValueError, which shows no password."""
    scheme, colon, rest = url.partition("://")
    if not colon or scheme not in SCHEMES:
        raise ValueError(f"The store URL {shown(url)} must begin with one of {', '.join(s + '://' for s in SCHEMES)}.")
    plain, _, kind = scheme.partition("+")
    try:
        address = {"": _single, "cluster": _cluster, "sentinel": _sentinel}[kind](plain, rest)
    except ValueError as exc:
        raise ValueError(f"The store URL {shown(url)} {exc}.") from None
    address.options["socket_timeout"] = reply
    return address


def shown(url: str) -> str:
    """The URL without its passwords."""
    bare = re.sub(r"([?&]\w*password=)[^&#]*", r"\1***", url)
    return repr(re.sub(r"(?<=://)([^/?#@:]*):[^/?#]*@", r"\1:***@", bare))


def _single(scheme: str, rest: str) -> Address:
    options = _options(scheme, rest)
    if scheme == "unix" and not options.get("path"):
        raise ValueError("names no socket, as in unix:///run/valkey.sock")
    return Address(options)


def _cluster(scheme: str, rest: str) -> Address:
    options = _options(scheme, rest)
    if options.pop("db", 0):
        raise ValueError("names a database; a Cluster has only number 0")
    options["host"] = options.get("host", "localhost")
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    return Address(options, is_cluster=True)


def _sentinel(scheme: str, rest: str) -> Address:
    place, question, query = rest.partition("?")
    authority, _, path = place.partition("/")
    login, at, hosts = authority.rpartition("@")
    service, _, database = path.partition("/")
    if not service or not re.fullmatch("[0-9]*", database):
        raise ValueError(
            "must end with the name that the Sentinels know, as redis+sentinel://a:26379,b:26379/mymaster/0"
        )
    options = _options(scheme, f"{login}{at}sentinel/{database}{question}{query}")
    del options["host"]
    own = ("username", "password", "db", "sentinel_username", "sentinel_password", "client_name")
    sentinel_options = {name: value for name, value in options.items() if name not in own}
    for name in ("username", "password"):
        if (value := options.pop(f"sentinel_{name}", None)) is not None:
            sentinel_options[name] = value
    return Address(options, False, [_host(each) for each in hosts.split(",")], unquote(service), sentinel_options)


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.netloc != text:
        raise ValueError(f"has no HOST:PORT in {text!r}")
    return host, port or _SENTINEL_PORT


def _options(scheme: str, rest: str) -> dict[str, Any]:
    try:
        options: dict[str, Any] = dict(parse_url(f"{scheme}://{rest}"))
    except ValueError as exc:
        raise ValueError(f"is not valid: {exc}") from None
    return options | _BOUNDS | {"retry": Retry(NoBackoff(), 0), "decode_responses": False}
