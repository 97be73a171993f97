"""What tools run here for a request, and what a call of one came to: all that translation needs to know of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Hosting:
    """``types``: the hosted types that are bound here (web_search, file_search, code_interpreter). ``mcp``: tools of
    that type are served; ``servers``: by server label their tools, as an ``mcp_list_tools`` item has them.

    ``again``: a later round of the response: a choice that forces a call is not forced again. ``withheld``: nor may a
    hosted call be made any more, so none is offered.
    """

    types: frozenset[str] = frozenset()
    servers: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    mcp: bool = False
    withheld: bool = False
    again: bool = False

    @property
    def names(self) -> dict[str, frozenset[str]]:
        """The names of each server's tools."""
        return {label: frozenset(tool["name"] for tool in listed) for label, listed in self.servers.items()}


NOTHING = Hosting()
"""No tool runs here."""


@dataclass(frozen=True)
class Outcome:
    """What a hosted call came to. ``output``: what the model reads, "" for none. ``error``: of the call, in a form of
    ``mcp_call.error`` (wire §6.2); calls of other types fail without words.

    ``found``: of a search, ``{"url", "title", "text"}`` each, of files ``{"file_id", "filename", "score", "text",
    "attributes"}``. ``outputs``: of code, ``{"type": "logs", "logs"}`` or ``{"type": "image", "url"}``. ``action``:
    what a web search did, where that is not to search for the query.
    """

    output: str = ""
    error: dict[str, Any] | None = None
    found: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    action: dict[str, Any] | None = None
