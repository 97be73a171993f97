"""JSON Web Tokens: whether one holds, and what it claims."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import httpx

from proxy.access.claims import INVALID_TOKEN
from proxy.access.jwks import TIMEOUT, KeySet, PublicKey
from proxy.errors import Unauthorized

if TYPE_CHECKING:
    import jwt

LONGEST = 16 * 1024
"""Characters of a token that is looked at."""


class Tokens:
    """Bearer tokens of these issuers (RFC 7519, RFC 8725).

    ``audiences``: of which a token must name one; ``*`` takes every token. ``jwks``: URL of the keys of all issuers, ""
    for what each one's discovery document names. ``algorithms``: of signatures. ``leeway``: seconds that clocks may be
    apart.
    """

    def __init__(
        self, issuers: Sequence[str], audiences: Sequence[str], jwks: str, algorithms: Sequence[str], leeway: float
    ) -> None:
        # found here and not by an import statement: a process without issuers does not pay for it (ADR 0020)
        self._decoder: jwt.PyJWT = import_module("jwt").PyJWT()
        self._loader: type[jwt.PyJWK] = import_module("jwt").PyJWK
        self._errors: Any = import_module("jwt.exceptions")
        self._client = httpx.AsyncClient(timeout=TIMEOUT)
        self._sets = {issuer: KeySet(self._client, issuer, jwks, self._loaded) for issuer in issuers}
        self._audiences = None if "*" in audiences else list(audiences)
        self._algorithms, self._leeway = algorithms, leeway

    async def claims(self, token: str) -> dict[str, Any]:
        """What a token claims. Raises Unauthorized for one that does not hold, KeysUnavailable."""
        if len(token) > LONGEST:
            _refuse(f"The token is too long: at most {LONGEST} characters are read.")
        kid, algorithm, issuer = self._unproven(token)
        keys = self._sets[issuer]
        await keys.ready()
        key = keys.key(kid, algorithm)
        claims = self._proven(token, key, algorithm, issuer) if key else None
        if claims is None and await keys.refreshed():  # it may be a new key, which is fetched once in a while
            key = keys.key(kid, algorithm)
            claims = self._proven(token, key, algorithm, issuer) if key else None
        if claims is None:
            _refuse(
                "The token's signature is not valid."
                if key
                else "The token is signed with a key that its issuer does not publish, or does not name ('kid')."
            )
        return claims

    async def aclose(self) -> None:
        for keys in self._sets.values():
            await keys.close()
        await self._client.aclose()

    def _unproven(self, token: str) -> tuple[str | None, str, str]:
        """(key's name, algorithm, issuer), as a token says that nobody has looked at. Raises Unauthorized."""
        try:
            parts = self._decoder.decode_complete(token, options={"verify_signature": False})
        except (self._errors.PyJWTError, ValueError):
            _refuse("The token cannot be read as a JSON Web Token.")
        kid, algorithm, issuer = parts["header"].get("kid"), parts["header"].get("alg"), parts["payload"].get("iss")
        if algorithm not in self._algorithms:
            _refuse(f"The token's algorithm is not accepted here: it must be one of {', '.join(self._algorithms)}.")
        if not isinstance(issuer, str) or issuer not in self._sets:
            _refuse("The token's issuer ('iss') is not one that is accepted here.")
        return kid, algorithm, issuer

    def _proven(self, token: str, key: PublicKey, algorithm: str, issuer: str) -> dict[str, Any] | None:
        """Its claims; None where another key signed it. Raises Unauthorized for one that does not hold otherwise."""
        errors = self._errors
        try:
            claims: dict[str, Any] = self._decoder.decode(
                token,
                key.key,
                algorithms=[algorithm],
                issuer=issuer,
                audience=self._audiences,
                leeway=self._leeway,
                options={"require": ["exp"], "verify_aud": self._audiences is not None},
            )
        except errors.InvalidSignatureError:
            return None
        except errors.ExpiredSignatureError:
            _refuse("The token has expired ('exp').", code="token_expired")
        except errors.ImmatureSignatureError:
            _refuse("The token is not valid yet ('nbf', 'iat').")
        except errors.InvalidAudienceError:
            _refuse("The token is for another audience ('aud') than this server.")
        except errors.MissingRequiredClaimError as exc:
            _refuse(f"The token has no claim '{exc.claim}'.")
        except (errors.PyJWTError, ValueError, TypeError, OverflowError):
            _refuse("The token is not valid: a claim or its header is not as it should be.")
        return claims

    def _loaded(self, row: dict[str, Any], algorithm: str) -> Any:
        try:
            return self._loader(row, algorithm).key
        except (self._errors.PyJWTError, TypeError) as exc:
            raise ValueError(str(exc)) from None


def _refuse(message: str, code: str = "invalid_token") -> NoReturn:
    raise Unauthorized(message, code=code, challenge=INVALID_TOKEN)
