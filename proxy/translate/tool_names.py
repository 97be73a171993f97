"""What tools are called upstream, and what a name there stands for (wire §6.6)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Tool = dict[str, Any]

HOSTED_ITEMS = {
    "web_search": "web_search_call",
    "file_search": "file_search_call",
    "code_interpreter": "code_interpreter_call",
}
"""The hosted types that can be bound here, all versions under one name, and the items of their calls."""

_FAMILIES = ("web_search", "image_generation", "tool_search")
_LONGEST_NAME, _HASH = 64, 8
_ILLEGAL = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True)
class Origin:
    """The tool that a chat name stands for: the type of item its calls become, and the name they carry.

    ``namespace``: or the label of its MCP server. ``tool``: of a tool that runs here, as the request declares it.
    """

    item: str
    name: str
    namespace: str | None = None
    tool: Tool | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Declared:
    """A tool in its chat form, and what its calls are calls of."""

    chat: Tool
    origin: Origin

    @cached_property
    def name(self) -> str:
        return str(self.chat[self.chat["type"]]["name"])

    @property
    def named(self) -> Tool:
        """The choice of this tool alone."""
        return {"type": self.chat["type"], self.chat["type"]: {"name": self.name}}

    @property
    def identity(self) -> tuple[bool, str | None, str]:
        """By this it is the same tool when it is declared anew."""
        return self.is_hosted, self.origin.namespace, self.origin.name

    @property
    def is_hosted(self) -> bool:
        """Whether it runs here."""
        return self.origin.tool is not None


Found = dict[str, Declared]
"""Tools by their chat names."""


def chat_name(name: str, namespace: str | None) -> str:
    """The name upstream of a tool in a namespace: ``<namespace>__<name>``, made legal and short enough if it is not.

    The same for the same two names whenever and wherever it is asked for: histories are written with it.
    """
    if namespace is None:
        return name
    whole = f"{namespace}__{name}"
    legal = _ILLEGAL.sub("_", whole)
    if legal == whole and len(whole) <= _LONGEST_NAME:
        return whole
    told = f"{namespace}\0{name}".encode("utf-8", "surrogatepass")
    return f"{legal[: _LONGEST_NAME - _HASH - 1]}_{hashlib.blake2b(told, digest_size=_HASH // 2).hexdigest()}"


def is_droppable(type_: str) -> bool:
    """Whether tools of a type may be left out unasked: clients send them with every request (wire §6.6)."""
    return type_.startswith(_FAMILIES)


def family(type_: str) -> str:
    """What a hosted tool is called by all of its versions: web_search_preview is web_search."""
    return next((name for name in _FAMILIES if type_.startswith(name)), type_)
