"""An identity provider on a real socket: a discovery document, a key set that changes, and tokens."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from contextlib import AsyncExitStack
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.backend import serving

AUDIENCE = "statecar"


@functools.cache
def rsa_key(number: int = 0, bits: int = 2048) -> Any:
    """Made once a run: it takes a tenth of a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@functools.cache
def ec_key(number: int = 0) -> Any:
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache
def ed_key() -> Any:
    return ed25519.Ed25519PrivateKey.generate()


def public(key: Any, kid: str | None = None, **more: Any) -> dict[str, Any]:
    """The JSON Web Key of a private key's public half."""
    kind = {rsa.RSAPrivateKey: "RSAAlgorithm", ec.EllipticCurvePrivateKey: "ECAlgorithm"}
    name = next((name for type_, name in kind.items() if isinstance(key, type_)), "OKPAlgorithm")
    row = getattr(jwt.algorithms, name).to_jwk(key.public_key(), as_dict=True)
    row.pop("key_ops", None)
    return {**row, **({"kid": kid} if kid else {}), **more}


class Provider:
    """``url``: its issuer. ``keys``: the rows of its key set. ``asked``: the paths of all requests.

    ``status``: of every answer, which waits for ``open``; ``reached``: set by the first request. ``document``: what the
    discovery document says beside or instead of the usual.
    """

    def __init__(self) -> None:
        self.keys: list[Any] = [public(rsa_key(), "r1"), public(ec_key(), "e1")]
        self.asked: list[str] = []
        self.status = 200
        self.document: dict[str, Any] = {}
        self.open, self.reached = asyncio.Event(), asyncio.Event()
        self.open.set()

    async def __aenter__(self) -> Provider:
        self._stack = AsyncExitStack()
        self.url = await self._stack.enter_async_context(serving(self._app, interface="asgi3"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def options(self) -> list[str]:
        """Those of a statecar that takes its tokens."""
        return [f"--jwt-issuer={self.url}", f"--jwt-audience={AUDIENCE}"]

    def claims(self, **changed: Any) -> dict[str, Any]:
        """The usual claims, but for these; None leaves one out."""
        now = int(time.time())
        usual = {"iss": self.url, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 60}
        return {name: value for name, value in (usual | changed).items() if value is not None}

    def token(self, key: Any = None, kid: str | None = "r1", algorithm: str = "RS256", **claims: Any) -> str:
        headers = {"kid": kid} if kid is not None else {}
        return jwt.encode(self.claims(**claims), key or rsa_key(), algorithm, headers)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.asked.append(path)
        self.reached.set()
        await self.open.wait()
        document = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"} | self.document
        body = json.dumps({"keys": self.keys} if path == "/keys" else document).encode()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": body})
