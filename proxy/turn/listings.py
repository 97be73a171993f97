"""What MCP servers offer: listed once in a lineage, kept in its items, held to what a request allows (wire §6.6)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from typing import Any

from proxy import codec
from proxy.errors import ToolServerError
from proxy.hosted import Box, Hosted
from proxy.state import Item
from proxy.translate.dialects import Dialect
from proxy.translate.hosted_tools import allowed
from proxy.translate.hosting import NOTHING, Hosting

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


async def offered(request: dict[str, Any], hosted: Hosted | None, items: list[Item], dialect: Dialect) -> Hosting:
    """What a turn would find its servers to offer, where there is no turn: listed anew if no item tells, and not kept.

    A server that cannot be listed offers nothing. Raises InvalidRequest for one that may not be asked.
    """
    if hosted is None:
        return NOTHING
    servers = check_servers(request, hosted, dialect)
    known = {tool["server_label"]: listing_of(tool, items) for tool in servers}
    missing = [tool for tool in servers if known[tool["server_label"]] is None]
    if missing:
        box = hosted.box("")
        try:
            found = await asyncio.gather(*(_listed(tool, box) for tool in missing))
        finally:
            box.close()
        known |= {tool["server_label"]: listed for tool, listed in zip(missing, found, strict=True)}
    listings = {label: listed for label, listed in known.items() if listed}
    return Hosting(types=hosted.types, mcp=hosted.serves_mcp, servers=listings)


async def _listed(tool: Tool, box: Box) -> list[Tool] | None:
    try:
        return allowed(tool, await box.list(tool))
    except ToolServerError:
        return None


def check_servers(request: dict[str, Any], hosted: Hosted, dialect: Dialect) -> list[Tool]:
    """The mcp tools of a request that are served. Raises InvalidRequest for one that cannot be."""
    if not hosted.serves_mcp and dialect.unsupported_tools == "drop":
        return []
    servers = {at: tool for at, tool in enumerate(request.get("tools") or ()) if tool["type"] == "mcp"}
    for at, tool in servers.items():
        hosted.check(tool, f"tools[{at}]")
    return list(servers.values())


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
