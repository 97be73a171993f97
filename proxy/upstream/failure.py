"""How long the upstream may take, and what it means when a request fails."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

import aiohttp
import httpx

from proxy.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable


@dataclass(frozen=True)
class Timeouts:
    """Limits of one request in seconds, None for none.

    ``connect``: until there is a connection; ``first_byte``: until the answer's head, connecting included, and from
    there to the first byte of its body; ``idle``: between two reads of the body.
    """

    connect: float | None
    first_byte: float | None
    idle: float | None


def failure(exc: Exception, timeouts: Timeouts, *, begun: bool, silent: bool = False) -> UpstreamError:
    """What a failed request means, told by its cause: httpx-aiohttp's classes do not tell these apart.

    ``begun``: whether the head of the answer had come; ``silent``: and nothing of its body. ``UpstreamUnreachable``:
    nothing was sent, so a retry is safe.
    """
    cause = (type(exc) is httpx.TransportError and exc.__cause__) or exc
    if isinstance(cause, aiohttp.ConnectionTimeoutError):
        return UpstreamUnreachable(f"The upstream took no connection within {timeouts.connect:g} s.")
    if isinstance(cause, (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, httpx.ConnectError)):
        return UpstreamUnreachable(f"The upstream is not reachable{_reason(cause)}.")
    if isinstance(cause, (TimeoutError, httpx.TimeoutException)):
        if begun and not silent:
            return UpstreamTimeout(f"The upstream was silent for {timeouts.idle} s in mid-answer (its idle limit).")
        return UpstreamTimeout(f"The upstream gave no first byte within {timeouts.first_byte} s.")
    if begun:
        return UpstreamError("The upstream closed the stream before it finished.")
    if isinstance(cause, aiohttp.ClientResponseError):
        return UpstreamError("The upstream's answer is not valid HTTP.")
    return UpstreamError("The upstream closed the connection before it answered.")


def shown(exc: BaseException) -> str:
    """An exception for the log: its kind; in words only why there was no connection.

    The words of aiohttp's others repeat requests, with their headers and queries, and what the upstream has sent.
    """
    cause = exc.__cause__ or exc
    return str(cause) if isinstance(cause, aiohttp.ClientConnectorError) else type(cause).__name__


def _reason(cause: Exception) -> str:
    """Why there was no connection, without the address, which is the operator's affair and stands in the log."""
    if isinstance(cause, aiohttp.ClientHttpProxyError):
        return f": its proxy answered {cause.status}"
    number: int = getattr(cause, "errno", None) or 0
    if isinstance(cause, aiohttp.ClientSSLError):
        return ": no secure connection"
    if number in errno.errorcode:
        return f": {os.strerror(number)}"
    return f": {cause.strerror}" if isinstance(cause, aiohttp.ClientConnectorDNSError) else ""
