"""What MCP servers offer: listed once in a lineage, kept in its items, held to what a request allows (wire §6.6)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from proxy import codec
from proxy.state import Item

Tool = dict[str, Any]


def listing_of(tool: Tool, items: Iterable[Item]) -> list[Tool] | None:
    """What the newest listing in a context says of an mcp tool's server.

    None where there is none: it failed, was never made, or was made for another server or for other tools of it; or
    a client sent it back without the tools.
    """
    found: list[Tool] | None = None
    for item in items:
        if item["type"] == "mcp_list_tools" and item["server_label"] == tool["server_label"] and not item.get("error"):
            made_for = (item.get("x_upstream") or {}).get("source")
            found = item["tools"] if made_for == source_of(tool) or (made_for is None and item["tools"]) else None
    return found


def source_of(tool: Tool) -> str:
    """A hash of what a listing depends on: the server, and what is allowed of it."""
    asked = [tool.get("connector_id"), tool.get("server_url"), tool.get("allowed_tools")]
    return hashlib.blake2b(codec.canonical(asked), digest_size=8).hexdigest()


def chosen_labels(choice: Any) -> set[str]:
    """The servers that a tool choice names: without them it cannot be honoured."""
    if not isinstance(choice, dict):
        return set()
    named = choice.get("tools") or [] if choice.get("type") == "allowed_tools" else [choice]
    return {each["server_label"] for each in named if each.get("type") == "mcp" and "server_label" in each}
