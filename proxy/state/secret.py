"""The secret behind tenant hashes, agreed on by every replica through the store."""

from __future__ import annotations

import secrets
import time

from proxy.errors import StoreUnavailable
from proxy.state.client import Client
from proxy.state.keys import SECRET

_AGE = 60.0  # seconds until it is offered again, so that replicas agree soon after the store was emptied


class TenantSecret:
    """32 random bytes, the first replica's; a copy outlives failures of the store."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._value: bytes | None = None
        self._until = 0.0

    async def get(self) -> bytes:
        """The secret. Raises StoreUnavailable when it was never read and cannot be."""
        if self._value is not None and time.monotonic() < self._until:
            return self._value
        offer = self._value or secrets.token_bytes(32)
        try:
            await self._client.command("SET", SECRET, offer, "NX")
            self._value = await self._client.command("GET", SECRET)
        except StoreUnavailable:
            if self._value is None:
                raise
        self._until = time.monotonic() + _AGE
        assert self._value is not None, "it was set or stood there, and has no expiry"
        return self._value
