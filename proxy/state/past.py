"""What came before a turn, and how stored entries become items again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from proxy import codec
from proxy.errors import StatecarError
from proxy.state.keys import PLAIN
from proxy.state.leases import Lock

_log = logging.getLogger(__name__)

Item = dict[str, Any]
"""A Responses item with its ``id``."""

Items = list[Item]
"""Items, oldest first."""


class Place(NamedTuple):
    """Where a context lies: the log, how far, and the positions left out. ``schema``: the lowest that it is read by."""

    log: str
    length: int
    gone: str
    schema: int = PLAIN


@dataclass(frozen=True, slots=True)
class Past:
    """The context a turn continues from, and where its continuation is written.

    ``items``: oldest first, not to be changed. ``log``, ``length``, ``gone``: the log read, how far, and the positions
    left out; no log for items that are stored nowhere. ``status``: of the response continued from. ``lock``: held while
    a turn runs on a conversation. ``schema``: the lowest by which the log is read.
    """

    tag: str
    items: list[Item]
    log: str | None = None
    length: int = 0
    gone: str = ""
    status: str | None = None
    lock: Lock | None = None
    schema: int = PLAIN

    @property
    def place(self) -> Place | None:
        """Where to read it again."""
        return Place(self.log, self.length, self.gone, self.schema) if self.log is not None else None

    @classmethod
    def none(cls, tag: str) -> Past:
        """The past of a new lineage."""
        return cls(tag, [])


def decode(entries: Sequence[bytes]) -> list[Item]:
    """The items of log entries; erased ones are skipped."""
    items: list[Item] = codec.loads(b"[" + b",".join(filter(None, entries)) + b"]")
    return items


def without(entries: list[bytes], gone: str) -> list[bytes]:
    """The entries that are not at positions ``gone``, which is ascending ranges as in ``3,5-7``."""
    if not gone:
        return entries
    kept, at = [], 0
    for part in gone.split(","):
        first, _, last = part.partition("-")
        kept += entries[at : int(first)]
        at = int(last or first) + 1
    return kept + entries[at:]


def whole(entries: list[bytes], length: int, where: str) -> list[bytes]:
    """The entries, if they are as many as recorded. Raises StatecarError: a shorter history is never served."""
    if len(entries) != length:
        _log.critical("stored history is damaged: %s holds %d of %d entries", where, len(entries), length)
        raise StatecarError("The stored history of this response is damaged.", code="history_damaged")
    return entries
