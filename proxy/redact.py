"""Tools without what only the MCP servers among them may see (wire §6.6)."""

from __future__ import annotations

from typing import Any

_SECRETS = ("authorization", "headers")


def mcp_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """An MCP tool as it may be told and kept: of its URL no query either, which may hold a secret."""
    told = {key: value for key, value in tool.items() if key not in _SECRETS}
    if isinstance(url := told.get("server_url"), str):
        address, query, _ = url.partition("#")[0].partition("?")
        told["server_url"] = f"{address}?<redacted>" if query else address
    return told


def tools(given: list[Any], *, inner: bool = False) -> list[Any]:
    """A list of tools, and those in its namespaces, whose MCP servers are not asked. ``inner``: of a namespace."""
    return [_tool(tool, inner) if isinstance(tool, dict) else tool for tool in given]


def _tool(tool: dict[str, Any], inner: bool) -> dict[str, Any]:
    if tool.get("type") == "mcp":
        return mcp_tool(tool)
    if not inner and tool.get("type") == "namespace" and isinstance(tool.get("tools"), list):
        return {**tool, "tools": tools(tool["tools"], inner=True)}
    return tool
