"""Who may call, and whose state a call sees (wire §1.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import Scope

from proxy.access import Authenticator, Identity
from proxy.errors import InsufficientScope, ModelNotFound, StoreUnavailable
from proxy.grants import AREAS, Grant
from proxy.routes.edge import LIMITS, facts
from proxy.state import SHARED, State, fixed_secret, tenant_id
from proxy.turn import Caller
from proxy.upstream import forwarded


@dataclass(frozen=True)
class Access:
    """Who may call, and whose state a call sees (wire §1.3).

    ``secret``: what tenants are hashed with; empty for the one that is kept in the store. ``session_header``: what
    callers name their sessions in, "" where nobody asks.
    """

    state: State
    authenticator: Authenticator
    secret: str = ""
    session_header: str = ""

    async def check(self, scope: Scope) -> Grant:
        """What a request that needs no state may do. Raises Unauthorized, InsufficientScope, KeysUnavailable."""
        grant = await self.authenticator.check(scope["headers"])
        return _permitted(scope, grant)

    async def caller(self, request: HTTPConnection, *, unknown: bool = False) -> Caller:
        """Raises as ``check`` does, and StoreUnavailable when the secret that tenants are hashed with cannot be read;
        ``unknown``: then the tenant is "" instead.
        """
        scope = request.scope
        identity = await self.authenticator.identity(scope["headers"])
        grant = _permitted(scope, identity.grant)
        headers = forwarded(
            scope["headers"],
            keep_authorization=not self.authenticator.guards,
            session_header=self.session_header,
        )
        known = facts(scope)
        try:
            tenant = await self._tenant(identity)
        except StoreUnavailable:
            if not unknown:
                raise
            tenant = ""
        known["tenant"] = tenant[:8] or None
        if identity.key:
            known["key"] = identity.key
        scope["statecar.grant"] = grant
        limits: dict[str, str] = scope.setdefault(LIMITS, {}) if grant.quota else {}
        return Caller(tenant, headers, known.get("request_id", ""), {}, identity.principal, grant, limits)

    async def renewed(self, caller: Caller, request: HTTPConnection) -> Caller:
        """The caller of a connection that has been open for a while: keys are withdrawn meanwhile, and tokens end."""
        return await self.caller(request) if self.authenticator.changes else caller

    async def _tenant(self, identity: Identity) -> str:
        if identity.tenant is None:
            return SHARED
        secret = fixed_secret(self.secret) if self.secret else await self.state.tenant_secret()
        return tenant_id(secret, identity.tenant)


def check_asked(caller: Caller, body: Mapping[str, Any], half: str = "write") -> None:
    """Raises ModelNotFound, and InsufficientScope: a body that names a conversation takes a half of those, too."""
    grant = caller.grant
    if body.get("conversation") is not None and not grant.permits("conversations", half):
        raise InsufficientScope(f"conversations:{half}")
    if not grant.covers(body["model"]):
        raise ModelNotFound(body["model"])


def _permitted(scope: Scope, grant: Grant) -> Grant:
    """The grant, if it covers what the request is about to do. Raises InsufficientScope.

    By the route that the request has found, not by the path that it gave.
    """
    if grant.scopes is None:
        return grant
    route = facts(scope)["route"]
    area = next((area for area in AREAS[:2] if f"/{area}" in route), "passthrough")
    half = "read" if scope.get("method") in ("GET", "HEAD") else "write"
    if not grant.permits(area, half):
        raise InsufficientScope(area if area == "passthrough" else f"{area}:{half}")
    return grant
