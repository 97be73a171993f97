"""What the claims of a token, and the headers of a gateway, say of a caller."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from proxy.access.presented import Headers, trusted
from proxy.errors import Unauthorized

Claims = Mapping[str, Any]

_HALF = re.compile(r"[\ud800-\udfff]")
"""Half of a character, which JSON can hold and no text."""


class Source:
    """Where a word of a caller stands: ``header:NAME``, ``claim:PATH``, or nowhere ("")."""

    def __init__(self, text: str) -> None:
        self.kind, _, self.name = text.partition(":")

    def word(self, headers: Headers, claims: Claims | None, what: str) -> str:
        """The word; "" where it stands nowhere, or in a claim and there is no token.

        ``what``: what it names. Raises Unauthorized where it is missing: who names nobody must not be taken for all.
        """
        if self.kind == "header":
            if found := trusted(headers, self.name):
                return found
            raise Unauthorized(f"The header '{self.name}' that names the {what} is missing.")
        if self.kind != "claim" or claims is None:
            return ""
        value = claim(claims, self.name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and value and not _HALF.search(value):
            return value
        raise Unauthorized(
            f"The token has no text in its claim '{self.name}', which names the {what}.",
            code="invalid_token",
            challenge=INVALID_TOKEN,
        )

    def words(self, headers: Headers, claims: Claims | None) -> tuple[str, ...]:
        """All words there: of a header what stands between its commas, of a claim its text or its list of texts."""
        if self.kind == "header":
            return tuple(word for part in trusted(headers, self.name).split(",") if (word := part.strip()))
        value = claim(claims, self.name) if claims else None
        return tuple(one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and one)


INVALID_TOKEN = 'Bearer error="invalid_token"'  # noqa: S105 (RFC 6750)
"""The challenge for a token that does not hold."""


def claim(claims: Claims, path: str) -> Any:
    """A claim by its name, or by the names on the way to it with dots between them; None for none."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found
