"""Which tools a ``tool_choice`` names (wire §6.7)."""

from __future__ import annotations

from typing import Any

from proxy.errors import InvalidRequest
from proxy.translate.client_tools import BY_TYPE
from proxy.translate.tool_names import HOSTED_ITEMS, Declared, Found, Tool, family

ITEMS = {"function": "function_call", "custom": "custom_tool_call"} | {t.type: t.item for t in BY_TYPE.values()}
"""The tools that clients run, by type, and the items of their calls."""

_ITEMS = ITEMS | HOSTED_ITEMS


class Names:
    """The found tools by every way to name one."""

    def __init__(self, found: Found) -> None:
        self._spaces: dict[tuple[str, str], list[Declared]] = {}
        self._exact: dict[tuple[str, str | None, str], Declared] = {}
        self._own: dict[tuple[str, str], list[Declared]] = {}
        for tool in found.values():
            item, (is_hosted, space, name) = tool.origin.item, tool.identity
            self._exact[item, space, name] = self._exact[item, None, tool.name] = tool
            self._own.setdefault((item, name), []).append(tool)
            if space is not None:
                self._spaces.setdefault(("mcp" if is_hosted else "namespace", space), []).append(tool)

    def chosen(self, choice: Tool) -> list[Declared]:
        """The tools that a choice or an entry of an allowed set names: one, or all of a namespace or MCP server.

        One in a namespace is named by both names, its chat name, or its own if that is clear. Raises InvalidRequest for
        what is not there.
        """
        type_ = choice["type"]
        if type_ == "mcp":
            named = choice.get("name")
            tools = self._spaces.get((type_, choice["server_label"]), [])
            found = [tool for tool in tools if named in (None, tool.origin.name, tool.name)]
            return found or self._missing(named or choice["server_label"])
        if type_ == "namespace" and (tools := self._spaces.get((type_, choice.get("name", "")), [])):
            return tools
        type_ = family(type_)
        name, space, item = choice.get("name") or type_, choice.get("namespace"), _ITEMS.get(type_, "")
        tool = self._exact.get((item, space, name))
        own = self._own.get((item, name), [])
        if tool is None and space is None and len(own) == 1:
            tool = own[0]
        return [tool] if tool else self._missing(choice.get("name") or choice["type"])

    @staticmethod
    def _missing(name: str) -> list[Declared]:
        raise InvalidRequest(f"Tool choice '{name}' not found in 'tools' parameter.", param="tool_choice")


def allowed(choice: Tool, names: Names, left_out: set[str], unlisted: set[str]) -> list[Declared]:
    """The tools of an allowed set, each once. ``left_out``: families of tools that are not declared upstream;
    ``unlisted``: labels of MCP servers whose tools are not known.
    """
    chosen: Found = {}
    given = [one for one in choice.get("tools") or [] if family(one["type"]) not in left_out]
    known = [one for one in given if one["type"] != "mcp" or one["server_label"] not in unlisted]
    for one in known:
        chosen |= {tool.name: tool for tool in names.chosen(one)}
    if not chosen and known == given:
        raise InvalidRequest("'allowed_tools' must name at least one tool.", param="tool_choice.tools")
    return list(chosen.values())


def unforced(choice: Any) -> Any:
    """The choice of a later round: what had to be called has been."""
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        return {**choice, "mode": "auto"}
    return choice if choice == "none" else "auto"
