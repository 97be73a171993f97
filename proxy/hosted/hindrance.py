"""Why a connection was not made, in the words of whoever has to mend it."""

from __future__ import annotations

import socket
import ssl


def hindrance(exc: BaseException | None) -> str:
    """Which of the usual mistakes is behind a failure to connect, after a colon; empty where it is another."""
    while exc is not None:
        match exc:
            case ssl.SSLCertVerificationError():
                return ": its certificate is not trusted here"
            case ssl.SSLError():
                return ": TLS failed, as where a server speaks http and the URL says https"
            case socket.gaierror():
                return ": its name is not known"
            case ConnectionRefusedError():
                return ": the connection was refused, so nothing listens at that port"
        exc = exc.__cause__ or exc.__context__
    return ""
