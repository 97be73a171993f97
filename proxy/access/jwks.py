"""The public keys of identity providers: fetched when they are needed, kept, and fetched again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import httpx

from proxy import codec
from proxy.errors import KeysUnavailable

log = logging.getLogger("statecar")

TIMEOUT = 5.0
_FRESH = 300.0
"""Seconds after which keys are fetched again beside the requests: those that were withdrawn must go."""
_APART = 30.0
"""Seconds between two fetches that tokens with unknown keys can cause."""
_RETRY = 2.0
"""Seconds between two where there are no keys at all."""
_LIMIT = 1024 * 1024
_DISCOVERY = "/.well-known/openid-configuration"
_RSA_BITS = 2048

_ALGORITHMS: dict[tuple[str, str], tuple[str, ...]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""What a key may sign with, by its type and curve: never what a token says of it (RFC 8725 §3.1)."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """``kid``: its name, None for none. ``key``: cryptography's."""

    kid: str | None
    algorithms: tuple[str, ...]
    key: Any


Loaded = Callable[[dict[str, Any], str], Any]
"""Makes cryptography's key of a JSON Web Key and an algorithm. Raises ValueError."""


class KeySet:
    """The keys of one issuer. Once there are some, they outlive every failure to fetch them.

    ``url``: of the key set, "" for the one that the issuer's discovery document names.
    """

    def __init__(self, client: httpx.AsyncClient, issuer: str, url: str, loaded: Loaded) -> None:
        self._client, self._issuer, self._url, self._loaded = client, issuer, url, loaded
        self._keys: list[PublicKey] = []
        self._stale = self._next = 0.0
        self._fetching: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Returns when there are keys. Raises KeysUnavailable."""
        now = asyncio.get_running_loop().time()
        if not self._keys:
            await self.refreshed()
        elif now >= self._stale and now >= self._next:
            self._fetch()
        if not self._keys:
            raise KeysUnavailable("The keys of the tokens' issuer cannot be read. Please retry.")

    async def refreshed(self) -> bool:
        """Fetches the keys for a token that fits none, if that was not tried a while ago; whether it was tried."""
        if self._fetching is None:
            now = asyncio.get_running_loop().time()
            if now < self._next:
                return False
            self._next = now + _APART if self._keys else 0.0
            self._fetch()
        assert self._fetching is not None
        await asyncio.shield(self._fetching)
        return True

    def key(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """The key that a token names; of one that names none, the only one there is (OIDC Core §10.1)."""
        fit = [one for one in self._keys if algorithm in one.algorithms and kid in (None, one.kid)]
        return fit[0] if fit and (kid is not None or len(fit) == 1) else None

    async def close(self) -> None:
        """Ends a fetch under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def _fetch(self) -> None:
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._replace())

    async def _replace(self) -> None:
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(2 * TIMEOUT):
                keys = usable(await self._json(self._url or await self._discovered()), self._loaded)
            if not keys:
                raise ValueError("there is no key in it that can be used")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, TimeoutError) as exc:
            why = str(exc) or type(exc).__name__
            log.error("keys of %s: %s%s", self._issuer, why, "; those fetched before go on" if self._keys else "")
            self._next = now() + (_APART if self._keys else _RETRY)
        else:
            self._keys, self._stale = keys, now() + _FRESH
        finally:
            self._fetching = None

    async def _discovered(self) -> str:
        """Where the issuer's discovery document says that the keys are (OIDC Discovery §4)."""
        at = self._issuer.rstrip("/") + _DISCOVERY
        document = await self._json(at)
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise ValueError(f"{at} is another issuer's")
        url = document.get("jwks_uri")
        if not isinstance(url, str) or not url.startswith(("https://", self._issuer.partition("//")[0] + "//")):
            raise ValueError(f"{at} names no 'jwks_uri' that can be used")
        return url

    async def _json(self, url: str) -> Any:
        body = b""
        async with self._client.stream("GET", url, headers={"accept": "application/json"}) as answer:
            if answer.status_code != 200:
                raise ValueError(f"{url} answered {answer.status_code}")
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > _LIMIT:
                    raise ValueError(f"{url} answered more than {_LIMIT} bytes")
        try:
            return codec.loads(body)
        except ValueError:
            raise ValueError(f"{url} answered no JSON") from None


def usable(document: Any, loaded: Loaded) -> list[PublicKey]:
    """The keys of a key set (RFC 7517) that tokens may be signed with; others are passed over."""
    rows = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise ValueError("what was fetched is no key set: it has no list 'keys'")
    return [key for row in rows[:100] if isinstance(row, dict) and (key := _public(row, loaded))]


def _public(row: dict[str, Any], loaded: Loaded) -> PublicKey | None:
    kind, kid = row.get("kty"), row.get("kid")
    named = str(kind), "" if kind == "RSA" else str(row.get("crv"))  # any value of JSON may stand there
    algorithms: Iterable[str] = _ALGORITHMS.get(named, ())
    if only := row.get("alg"):
        algorithms = [name for name in algorithms if name == only]
    operations = row.get("key_ops")
    if "d" in row or row.get("use", "sig") != "sig" or (isinstance(operations, list) and "verify" not in operations):
        return None
    if not algorithms or not isinstance(kid, str | None):
        return None
    names = tuple(algorithms)
    try:
        key = loaded(row, names[0])
    except ValueError:
        return None
    return PublicKey(kid, names, key) if kind != "RSA" or key.key_size >= _RSA_BITS else None
