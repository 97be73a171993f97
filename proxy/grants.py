"""What a caller's key or token allows, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass


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

    ``quota``: of the caller's tenant; None where nothing is limited.
    """

    scopes: frozenset[str] | None = None
    models: tuple[str, ...] = ()
    quota: Quota | None = None


EVERYTHING = Grant()
