"""What a request presents of its caller: its headers, read without trusting them."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.errors import Unauthorized

Headers = Sequence[tuple[bytes, bytes]]
"""Raw headers, names in lower case."""


def key_of(headers: Headers) -> str:
    """The key a caller presents, as Bearer token or in ``api-key``."""
    scheme, _, token = value_of(headers, b"authorization").partition(" ")
    return (token.strip() if scheme.lower() == "bearer" else "") or value_of(headers, b"api-key")


def value_of(headers: Headers, name: bytes) -> str:
    """The first value of a header; "" for none."""
    for key, value in headers:
        if key == name:
            return value.decode("utf-8", "surrogateescape").strip()
    return ""


def trusted(headers: Headers, name: str) -> str:
    """The value of a header that a gateway sets; "" for none. Raises Unauthorized for several that differ.

    A gateway that adds its header to those of its callers, instead of replacing them, lets callers choose.
    """
    wanted = name.lower().encode()
    values = {value for key, value in headers if key == wanted}
    if len(values) > 1:
        raise Unauthorized(f"The header '{name}' came more than once, with different values.")
    return values.pop().decode("utf-8", "surrogateescape").strip() if values else ""
