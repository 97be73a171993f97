"""How long the upstream may take, and what it means when a request fails."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from dataclasses import dataclass

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
    """What a failed request means, told by its class (``Transport``).

    ``begun``: whether the head of the answer had come; ``silent``: and nothing of its body. ``UpstreamUnreachable``:
    nothing was sent, so a retry is safe.
    """
    if isinstance(exc, httpx.ConnectTimeout):
        return UpstreamUnreachable(f"The upstream took no connection within {timeouts.connect:g} s.")
    if isinstance(exc, (httpx.ConnectError, httpx.ProxyError)):
        return UpstreamUnreachable(f"The upstream is not reachable{_reason(exc)}.")
    if isinstance(exc, httpx.TimeoutException):
        if begun and not silent:
            return UpstreamTimeout(f"The upstream was silent for {timeouts.idle} s in mid-answer (its idle limit).")
        return UpstreamTimeout(f"The upstream gave no first byte within {timeouts.first_byte} s.")
    if begun:
        return UpstreamError("The upstream closed the stream before it finished.")
    if isinstance(exc, httpx.RemoteProtocolError):
        return UpstreamError("The upstream's answer is not valid HTTP.")
    return UpstreamError("The upstream closed the connection before it answered.")


def shown(exc: BaseException) -> str:
    """An exception for the log: its kind; in words only why there was no connection."""
    if not isinstance(exc, (httpx.ConnectError, httpx.ProxyError)):
        return type(exc).__name__
    return str(exc.__cause__ if isinstance(exc.__cause__, OSError) else exc)


def _reason(exc: Exception) -> str:
    """Why there was no connection, without the address, which is the operator's affair and stands in the log."""
    if isinstance(exc, httpx.ProxyError):
        return f": {exc}"
    cause = exc.__cause__
    if isinstance(cause, ssl.SSLError):
        return ": no secure connection"
    if isinstance(cause, socket.gaierror):
        return f": {cause.strerror}"
    number = getattr(cause, "errno", None) or 0
    return f": {os.strerror(number)}" if number in errno.errorcode else ""
