"""What a caller's key or token allows, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

AREAS = ("responses", "conversations", "passthrough")
"""What scopes name; of the first two also the halves ``:read`` and ``:write``."""
SCOPES = ("passthrough", *(area + half for area in AREAS[:2] for half in ("", ":read", ":write")))


@dataclass(frozen=True, slots=True)
class Quota:
    """What a tenant may use, over the whole fleet; 0 is no limit. ``stored_bytes``: of responses and conversations."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrent_turns: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """``scopes``: what may be done, None for everything. ``models``: patterns of those that may be asked, none for all.

    ``quota``: of the caller's tenant; None where nothing is limited, and nothing is asked of the store.
    """

    scopes: frozenset[str] | None = None
    models: tuple[str, ...] = ()
    quota: Quota | None = None

    def permits(self, area: str, half: str) -> bool:
        """Whether it covers a half, ``read`` or ``write``, of an area."""
        return self.scopes is None or area in self.scopes or f"{area}:{half}" in self.scopes

    def covers(self, model: str) -> bool:
        """Whether a model may be asked, by the name that the client uses."""
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)


EVERYTHING = Grant()
