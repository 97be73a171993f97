"""Ids and what they say about where a thing lies.

Every id minted here is ``<prefix>_<tag><turn><ordinal>``, 48 hex characters after the prefix:

- ``tag`` (16): the lineage, a chain of responses or a conversation. All keys of a lineage contain it.
- ``turn`` (28): the response or batch of items the thing was made in.
- ``ordinal`` (4): ``0000`` is the response or conversation itself, items count from 1.

So a response's items are found by their id alone, and nothing has to be indexed for it.
"""

from __future__ import annotations

import os
import re
import secrets
from typing import NamedTuple

_PATH = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_MINTED = re.compile(r"([a-z]+)_([0-9a-f]{16})([0-9a-f]{28})([0-9a-f]{4})\Z")
_ALPHANUMERIC = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

MAX_ORDINAL = 0xFFFF

PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "web_search_call": "ws",
    "file_search_call": "fs",
    "code_interpreter_call": "ci",
    "image_generation_call": "ig",
    "mcp_list_tools": "mcpl",
    "mcp_call": "mcp",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
    "compaction": "cmp",
    "computer_call": "cu",
    "shell_call": "sh",
    "local_shell_call": "lsh",
    "apply_patch_call": "apc",
    "computer_call_output": "cuo",
    "shell_call_output": "sho",
    "local_shell_call_output": "lsho",
    "apply_patch_call_output": "apco",
    "tool_search_call": "tsc",
    "tool_search_output": "tso",
    "additional_tools": "at",
}
"""Item type to id prefix (wire §1.9); other types get ``item``."""


class Minted(NamedTuple):
    """The parts of an id made by a statecar."""

    prefix: str
    tag: str
    turn: str
    ordinal: int


def parse(id_: object) -> Minted | None:
    """The parts of an id of ours, or None for anything else."""
    match = _MINTED.match(id_) if isinstance(id_, str) else None
    return Minted(match[1], match[2], match[3], int(match[4], 16)) if match else None


def of_kind(id_: object, prefix: str) -> Minted | None:
    """The parts of a response or conversation id; None when it is no id of that kind."""
    minted = parse(id_)
    return minted if minted and minted.prefix == prefix and minted.ordinal == 0 else None


def is_path_id(id_: object) -> bool:
    """Whether an id given by a client may be kept as it is (wire §1.9)."""
    return isinstance(id_, str) and _PATH.match(id_) is not None


def new_tag() -> str:
    return os.urandom(8).hex()


def new_call_id() -> str:
    """``call_`` + 24 alphanumerics, for upstreams that give none."""
    return "call_" + "".join(secrets.choice(_ALPHANUMERIC) for _ in range(24))


class Minter:
    """The ids of one turn (or batch of items): its own, and those of its items in order."""

    def __init__(self, tag: str | None = None) -> None:
        self.tag = tag or new_tag()
        self.turn = os.urandom(14).hex()
        self._ordinal = 0

    @classmethod
    def again(cls, minted: Minted, used: int) -> Minter:
        """That of a turn begun before, of whose ordinals so many are used."""
        minter = cls(minted.tag)
        minter.turn, minter._ordinal = minted.turn, used
        return minter

    def skip(self, count: int) -> None:
        """Passes over so many that somebody else has given."""
        self._ordinal += count

    def own(self, prefix: str) -> str:
        """``resp_…`` of this turn, or ``conv_…``."""
        return f"{prefix}_{self.tag}{self.turn}0000"

    def item(self, type_: str) -> str:
        """A new id for an item of that type. Raises OverflowError after 65,535 of them."""
        self._ordinal += 1
        if self._ordinal > MAX_ORDINAL:
            raise OverflowError(f"a turn has at most {MAX_ORDINAL} items")
        return f"{PREFIXES.get(type_, 'item')}_{self.tag}{self.turn}{self._ordinal:04x}"
