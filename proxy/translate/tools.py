"""Tool declarations and ``tool_choice``: Responses to chat, and what comes back (wire §6.6, §6.7, §7.8, §7.9)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from proxy.errors import InvalidRequest
from proxy.translate.dialects import Dialect

Tool = dict[str, Any]

_DROPPABLE = ("web_search", "image_generation", "tool_search")
_EMPTY_SCHEMA = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class ToolPlan:
    """What goes upstream for a request's tools.

    ``tools`` and ``choice``: chat form, None when the key must not be sent. ``allowed``: the only names whose calls may
    pass, None for all. ``dropped``: the tool types left out, in order.
    """

    tools: list[Tool] | None = None
    choice: Any = None
    allowed: frozenset[str] | None = None
    dropped: list[str] = field(default_factory=list)


def plan(request: dict[str, Any], dialect: Dialect) -> ToolPlan:
    """Raises InvalidRequest for a tool or choice this server cannot honour, before anything is sent or stored."""
    choice = request.get("tool_choice", "auto")
    functions, dropped = _functions(request.get("tools") or [], choice, dialect.unsupported_tools)
    names = [tool["function"]["name"] for tool in functions]
    if choice == "none":
        return ToolPlan(dropped=dropped)
    if not functions:
        if choice == "required":
            raise InvalidRequest(
                "Tool choice 'required' must be specified with 'tools' parameter.", param="tool_choice"
            )
        if isinstance(choice, dict):
            _named(choice, names)
        return ToolPlan(dropped=dropped)
    if not isinstance(choice, dict):
        return ToolPlan(functions, choice if "tool_choice" in request else None, None, dropped)
    if choice.get("type") == "allowed_tools":
        return _allowed(choice, functions, dialect, dropped)
    name = _named(choice, names)
    return ToolPlan(functions, {"type": "function", "function": {"name": name}}, None, dropped)


def echo(tools: list[Tool]) -> list[Tool]:
    """Tools as the response repeats them: as given, function tools with every key (wire §6.6)."""
    return [
        {"description": None, "parameters": None, "strict": None, **tool} if tool.get("type") == "function" else tool
        for tool in tools
    ]


def _functions(tools: list[Tool], choice: Any, policy: str) -> tuple[list[Tool], list[str]]:
    functions: list[Tool] = []
    dropped: list[str] = []
    for index, tool in enumerate(tools):
        type_ = tool["type"]
        if type_ == "function":
            functions.append({"type": "function", "function": _declaration(tool)})
        elif _is_dropped(type_, choice, policy):
            dropped.append(type_)
        else:
            raise InvalidRequest(
                f"Tool type '{type_}' is not supported by this server.",
                param=f"tools[{index}].type",
                code="unsupported_parameter",
            )
    return functions, dropped


def _is_dropped(type_: str, choice: Any, policy: str) -> bool:
    """Codex sends ``web_search`` with every request: refusing it would lock Codex out (wire §6.6)."""
    if policy == "reject" or (isinstance(choice, dict) and choice.get("type") == type_):
        return False
    return policy == "drop" or type_.startswith(_DROPPABLE)


def _declaration(tool: Tool) -> dict[str, Any]:
    out: dict[str, Any] = {"name": tool["name"]}
    if tool.get("description") is not None:
        out["description"] = tool["description"]
    out["parameters"] = tool.get("parameters") or _EMPTY_SCHEMA
    if tool.get("strict") is not None:
        out["strict"] = tool["strict"]
    return out


def _named(choice: dict[str, Any], names: list[str]) -> str:
    name = choice.get("name") or (choice.get("function") or {}).get("name") or choice.get("type")
    if choice.get("type") != "function" or name not in names:
        raise InvalidRequest(f"Tool choice '{name}' not found in 'tools' parameter.", param="tool_choice")
    return str(name)


def _allowed(choice: dict[str, Any], functions: list[Tool], dialect: Dialect, dropped: list[str]) -> ToolPlan:
    known = [tool["function"]["name"] for tool in functions]
    listed_tools = [tool for tool in choice.get("tools") or [] if tool.get("type") not in dropped]
    names = [_named(tool, known) for tool in listed_tools]
    if not names:
        raise InvalidRequest("'allowed_tools' must name at least one tool.", param="tool_choice.tools")
    mode = choice.get("mode") or "auto"
    if dialect.openai_like:
        listed = [{"type": "function", "function": {"name": name}} for name in names]
        native = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": listed}}
        return ToolPlan(functions, native, frozenset(names), dropped)
    few = [tool for tool in functions if tool["function"]["name"] in names]
    sent: Any = mode
    if mode == "required" and len(few) == 1:
        sent = {"type": "function", "function": {"name": names[0]}}
    return ToolPlan(few, sent, frozenset(names), dropped)
