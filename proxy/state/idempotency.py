"""Idempotency keys: which response stands for a key, and who is about to make one (wire §10.13).

A key is *held* by a request, by a lease, until the run of its response exists, and *named* just before that. So of two
requests one makes the response, and what happens to a named one is read from the run or the response itself.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field

from proxy import codec
from proxy.state.client import Client, Script
from proxy.state.keys import KEY_TTL, key_hold, key_name

_TAKE = Script("key_take")
_NAME = Script("key_name")
_LEASE = Script("lease")


@dataclass(frozen=True, slots=True)
class Claim:
    """A request's claim on a key of its tenant's. ``body``: the hash of what it asks for."""

    tenant: str
    key: str
    body: str
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    @classmethod
    def of(cls, tenant: str, key: str, body: bytes, user: str = "") -> Claim:
        """``key``: as it was sent; ``body``: the request's, the same for requests that ask for the same; ``user``: who
        sent it, where users are told apart.
        """
        named = codec.dumps([user, key]) if user else key.encode("utf-8", "surrogateescape")
        return cls(tenant, _hash(named), _hash(body))

    @property
    def value(self) -> str:
        """What stands in the store while the key is held."""
        return self.body + self.token


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a key. ``response``: what it stands for, "" for nothing yet; ``held``: somebody is about to make it."""

    body: str
    response: str
    held: bool


class IdempotencyKeys:
    """Verbs on keys; all raise StoreUnavailable."""

    def __init__(self, client: Client, lease: float) -> None:
        """``lease``: seconds that a key is held without renewal."""
        self._client, self._lease_ms = client, int(lease * 1000)

    async def take(self, claim: Claim, freed: str = "") -> Holder | None:
        """Takes a key; who has it instead, if it is taken. ``freed``: a response that is to stand for it no more."""
        reply = await self._client.script(_TAKE, self._keys(claim), claim.value, self._lease_ms, freed)
        if reply == b"TAKEN":
            return None
        body, response, held = reply
        return Holder(body.decode(), response.decode(), bool(held))

    async def hold(self, claim: Claim) -> None:
        """Renews the hold on a key, if it is still ours."""
        await self._client.script(_LEASE, self._keys(claim)[:1], claim.value, self._lease_ms)

    async def name(self, claim: Claim, id_: str) -> bool:
        """Lets a held key stand for a response; False when it is not ours any more."""
        return bool(await self._client.script(_NAME, self._keys(claim), claim.value, id_, KEY_TTL))

    async def let_go(self, claim: Claim) -> None:
        """Ends the hold on a key, if it is ours; what it stands for stays."""
        await self._client.script(_LEASE, self._keys(claim)[:1], claim.value, 0)

    @staticmethod
    def _keys(claim: Claim) -> list[str]:
        return [key_hold(claim.tenant, claim.key), key_name(claim.tenant, claim.key)]


def _hash(data: bytes) -> str:
    """32 characters that say nothing of what they stand for."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
