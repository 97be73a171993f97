"""What tenants are called in the store, and the secret behind it, agreed on by every replica through the store."""

from __future__ import annotations

import asyncio
import hashlib
import secrets

from proxy.errors import StoreUnavailable
from proxy.state.client import Client
from proxy.state.keys import SECRET

_AGE = 5.0  # seconds until it is offered again, so that replicas agree soon after the store was emptied


SHARED = "shared"
"""The tenant of everybody where nobody is told apart."""


def tenant_id(secret: bytes, name: str) -> str:
    """What a tenant is called in the store, 32 hex digits: neither its name nor a guess at it can be read from them.

    ``secret``: that of the store, or ``fixed_secret``'s. ``name``: what a header, a claim or the key file says, or for
    the holder of a key ``Bearer `` and the key (``Authorization`` as it came where statecar knows no keys).
    """
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), key=secret, digest_size=16).hexdigest()


def fixed_secret(text: str) -> bytes:
    """The secret that ``tenant_secret`` stands for."""
    return hashlib.sha256(text.encode()).digest()


class TenantSecret:
    """32 random bytes, the first replica's; a copy outlives failures of the store."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._value: bytes | None = None
        self._until = 0.0
        self._offering: asyncio.Task[bytes] | None = None

    async def get(self) -> bytes:
        """The secret. Raises StoreUnavailable when it was never read and cannot be.

        Once known it costs no waiting: it is offered again beside the requests, which go on with the copy.
        """
        if self._value is None:
            return await self._offer()
        now = asyncio.get_running_loop().time()
        if now >= self._until:
            self._until = now + _AGE
            self._offering = asyncio.create_task(self._offer())
        return self._value

    async def known(self) -> bytes | None:
        """That of the store, None where it has none yet. Raises StoreUnavailable."""
        value: bytes | None = await self._client.command("GET", SECRET)
        return value

    async def install(self, secret: bytes) -> None:
        """Gives the store this one, unless it has one. Raises StoreUnavailable."""
        await self._client.command("SET", SECRET, secret, "NX")

    async def close(self) -> None:
        """Ends an offer under way."""
        if self._offering is not None:
            self._offering.cancel()
            await asyncio.wait([self._offering])

    async def _offer(self) -> bytes:
        try:
            await self._client.command("SET", SECRET, self._value or secrets.token_bytes(32), "NX")
            value: bytes = await self._client.command("GET", SECRET)
        except StoreUnavailable:
            if self._value is None:
                raise
            return self._value  # logged
        self._value, self._until = value, asyncio.get_running_loop().time() + _AGE
        return value
