"""Finds out who calls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from proxy.access.identity import Identity
from proxy.access.presented import Headers, key_of, trusted, value_of
from proxy.errors import Unauthorized
from proxy.grants import EVERYTHING, Grant


class Authenticator:
    """Tells callers apart (wire §1.3). ``guards``: whether they must present a key.

    ``keys``: of which one is asked for, none for everybody. ``tenant``: ``auth``, ``off`` or ``header:NAME``.
    """

    def __init__(self, keys: Sequence[str], tenant: str) -> None:
        self.guards = bool(keys)
        self._keys = {_digest(key) for key in keys}
        self._tenant = tenant

    async def identity(self, headers: Headers) -> Identity:
        """Who sends these headers. Raises Unauthorized."""
        grant = await self.check(headers)
        return Identity(self._tenant_of(headers), grant=grant)

    async def check(self, headers: Headers) -> Grant:
        """What their sender may do. Raises Unauthorized for a missing or wrong key.

        Keys are found by their hashes: how long that takes says nothing of any of them.
        """
        if not self.guards:
            return EVERYTHING
        given = key_of(headers)
        if _digest(given) not in self._keys:
            raise Unauthorized(
                "Incorrect API key provided." if given else "You did not provide an API key: send it as a Bearer token."
            )
        return EVERYTHING

    def _tenant_of(self, headers: Headers) -> str | None:
        if self._tenant == "off":
            return None
        if self._tenant.startswith("header:"):
            name = self._tenant.removeprefix("header:")
            if given := trusted(headers, name):
                return given
            raise Unauthorized(f"The header '{name}' that names the tenant is missing.")
        if self.guards:  # one key is one tenant, however it is presented
            return f"Bearer {key_of(headers)}"
        return value_of(headers, b"authorization") or value_of(headers, b"api-key")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
