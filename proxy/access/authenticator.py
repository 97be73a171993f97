"""Finds out who calls."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from proxy.access.claims import Claims, Source
from proxy.access.identity import Identity
from proxy.access.keyfile import Entry, digest
from proxy.access.presented import Headers, key_of, value_of
from proxy.access.tokens import Tokens
from proxy.access.watched import KeyFile
from proxy.errors import Unauthorized
from proxy.grants import EVERYTHING, SCOPES, Grant, Quota
from proxy.principals import Principal
from proxy.settings import Settings

_EVERY_KEY = Entry()


class Authenticator:
    """Tells callers apart (wire §1.3). ``guards``: whether they must present a key or a token.

    ``changes``: whether one that was good may not be any more, while a connection is open. ``limits``: whether a tenant
    may have a quota.
    """

    def __init__(self, settings: Settings, quota: Quota | None = None) -> None:
        """``quota``: of every tenant that the key file gives no other."""
        self._keys = {digest(key): _EVERY_KEY for key in settings.api_key}
        self._file = KeyFile(settings.keys_file) if settings.keys_file else None
        self._tokens = _tokens(settings) if settings.jwt_issuer else None
        self.changes = bool(self._file or self._tokens)
        self.guards = self.changes or bool(self._keys)
        self._tenant = Source(settings.tenant)
        self._principal = Source(settings.principal)
        self._users = Source(settings.principal or "claim:sub")
        self._attributes = {
            name: Source(source) for name, _, source in (entry.partition("=") for entry in settings.attribute)
        }
        self._scoped, self._quota = settings.jwt_scopes, quota
        self.limits = bool(quota or self._file)

    def begin(self) -> None:
        """Keeps an eye on the key file from now on."""
        if self._file:
            self._file.begin()

    async def identity(self, headers: Headers) -> Identity:
        """Who sends these headers. Raises Unauthorized, KeysUnavailable."""
        entry, claims = await self._caller(headers)
        tenant = self._tenant_of(headers, entry, claims)
        grant = self._granted(entry, claims)
        if quota := await self._quota_of(tenant or ""):
            grant = replace(grant, quota=quota)
        return Identity(tenant, self._principal_of(headers, entry, claims), grant, entry.name if entry else "")

    async def check(self, headers: Headers) -> Grant:
        """What their sender may do. Raises Unauthorized, KeysUnavailable."""
        return self._granted(*await self._caller(headers))

    async def aclose(self) -> None:
        if self._file:
            await self._file.close()
        if self._tokens:
            await self._tokens.aclose()

    async def _caller(self, headers: Headers) -> tuple[Entry | None, Claims | None]:
        """What the presented key allows, or what the presented token claims; neither where nothing is asked for."""
        if not self.guards:
            return None, None
        given = key_of(headers)
        if not given:
            raise Unauthorized("You did not provide an API key: send it as a Bearer token.")
        found = digest(given)
        entry = self._keys.get(found) or (self._file and (await self._file.table()).entries.get(found))
        if entry:
            if time.time() >= entry.expires:
                raise Unauthorized("This API key has expired.")
            return entry, None
        if self._tokens and given.count(".") == 2:
            return None, await self._tokens.claims(given)
        raise Unauthorized("Incorrect API key provided.")

    def _tenant_of(self, headers: Headers, entry: Entry | None, claims: Claims | None) -> str | None:
        """Its name, None for the one that all share. What the key file says of a key goes before everything."""
        if entry and entry.tenant:
            return entry.tenant
        if self._tenant.kind == "off":
            return None
        if named := self._tenant.word(headers, claims, "tenant"):
            return named
        if claims is not None:  # tokens change by the hour, their subject does not
            return f"{claims['iss']} {Source('claim:sub').word(headers, claims, 'tenant')}"
        if self.guards:  # one key is one tenant, however it is presented
            return f"Bearer {key_of(headers)}"
        return value_of(headers, b"authorization") or value_of(headers, b"api-key")

    def _principal_of(self, headers: Headers, entry: Entry | None, claims: Claims | None) -> Principal | None:
        if entry and entry.principal:
            return entry.principal
        source = self._principal if claims is None else self._users
        name = source.word(headers, claims, "user")
        if not name:
            return None
        found = ((attribute, source.words(headers, claims)) for attribute, source in self._attributes.items())
        return Principal(name, {attribute: words for attribute, words in found if words})

    def _granted(self, entry: Entry | None, claims: Claims | None) -> Grant:
        if entry:
            return entry.grant
        return Grant(_scopes(claims)) if claims is not None and self._scoped else EVERYTHING

    async def _quota_of(self, tenant: str) -> Quota | None:
        limits = await self._file.limits(tenant) if self._file else None
        quota = replace(self._quota or Quota(), **limits) if limits else self._quota
        return None if quota == Quota() else quota


def _tokens(settings: Settings) -> Tokens:
    return Tokens(
        settings.jwt_issuer,
        settings.jwt_audience,
        settings.jwt_jwks,
        settings.jwt_algorithms,
        settings.jwt_leeway,
    )


def _scopes(claims: Claims) -> frozenset[str]:
    """Those of ours that a token names, in ``scope`` (RFC 8693) or ``scp`` (as Entra and Okta have it)."""
    given: list[Any] = []
    for name in ("scope", "scp"):
        value = claims.get(name)
        given += value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    return frozenset(scope for scope in SCOPES if scope in given)
