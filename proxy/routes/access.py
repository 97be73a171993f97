"""Who may call, and whose state a call sees (wire §1.3)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import HTTPConnection
from starlette.types import Scope

from proxy.errors import StoreUnavailable, Unauthorized
from proxy.routes.edge import facts
from proxy.state import State
from proxy.turn import Caller
from proxy.upstream import forwarded


@dataclass(frozen=True)
class Access:
    """Who may call, and whose state a call sees (wire §1.3).

    ``keys``: those a caller must present one of, none for everybody. ``tenant``: ``auth``, ``off`` or ``header:NAME``.
    ``secret``: what tenants are hashed with; empty for the one that is kept in the store.
    """

    state: State
    keys: tuple[str, ...]
    tenant: str
    secret: str = ""

    def check(self, scope: Scope) -> None:
        """Raises Unauthorized for a missing or wrong key."""
        if not self.keys:
            return
        given = key_of(scope)
        known = [hmac.compare_digest(given.encode("utf-8", "surrogateescape"), key.encode()) for key in self.keys]
        if not any(known):
            told = (
                "Incorrect API key provided." if given else "You did not provide an API key: send it as a Bearer token."
            )
            raise Unauthorized(told)

    async def caller(self, request: HTTPConnection, *, unknown: bool = False) -> Caller:
        """Raises Unauthorized, and StoreUnavailable when the secret that tenants are hashed with cannot be read;
        ``unknown``: then the tenant is "" instead.
        """
        self.check(request.scope)
        headers = forwarded(request.scope["headers"], keep_authorization=not self.keys)
        known = facts(request.scope)
        try:
            tenant = await self._tenant(request.scope)
        except StoreUnavailable:
            if not unknown:
                raise
            tenant = ""
        known["tenant"] = tenant[:8] or None
        return Caller(tenant, headers, known.get("request_id", ""))

    async def _tenant(self, scope: Scope) -> str:
        """A keyed hash: neither keys nor a guess at one can be read from the store."""
        if self.tenant == "off":
            return "shared"
        if self.tenant.startswith("header:"):
            name = self.tenant.removeprefix("header:")
            given = _header(scope, name.lower().encode())
            if not given:
                raise Unauthorized(f"The header '{name}' that names the tenant is missing.")
        elif self.keys:  # one key is one tenant, however it is presented
            given = f"Bearer {key_of(scope)}"
        else:
            given = _header(scope, b"authorization") or _header(scope, b"api-key")
        fixed = hashlib.sha256(self.secret.encode()).digest() if self.secret else None
        secret = fixed or await self.state.tenant_secret()
        return hashlib.blake2b(given.encode("utf-8", "surrogateescape"), key=secret, digest_size=16).hexdigest()


def key_of(scope: Scope) -> str:
    """The key a caller presents, as Bearer token or in ``api-key``."""
    scheme, _, token = _header(scope, b"authorization").partition(" ")
    return (token.strip() if scheme.lower() == "bearer" else "") or _header(scope, b"api-key")


def _header(scope: Scope, name: bytes) -> str:
    found: Sequence[bytes] = [value for key, value in scope["headers"] if key == name]
    return found[0].decode("utf-8", "surrogateescape").strip() if found else ""
