"""Tool declarations and ``tool_choice``: Responses to chat, and what comes back (wire §6.6, §6.7, §7.7–7.9)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from proxy.errors import InvalidRequest
from proxy.translate.client_tools import BY_TYPE
from proxy.translate.dialects import Dialect

Tool = dict[str, Any]
Item = dict[str, Any]

_DROPPABLE = ("web_search", "image_generation", "tool_search")
_EMPTY_SCHEMA = {"type": "object", "properties": {}}
_ITEMS = {"function": "function_call", "custom": "custom_tool_call"} | {t.type: t.item for t in BY_TYPE.values()}
_LONGEST_NAME, _HASH = 64, 8
_ILLEGAL = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True)
class Origin:
    """The tool that a chat name stands for: the type of item its calls become, and the name they carry."""

    item: str
    name: str
    namespace: str | None = None


@dataclass(frozen=True)
class ToolPlan:
    """What goes upstream for a request's tools.

    ``tools`` and ``choice``: chat form, None when the key must not be sent. ``allowed``: the only names whose calls may
    pass, None for all. ``dropped``: the tool types left out, each once, in order. ``origins``: chat names, and others
    that models use for them, to what they stand for, where that is not a function of the same name.
    """

    tools: list[Tool] | None = None
    choice: Any = None
    allowed: frozenset[str] | None = None
    dropped: list[str] = field(default_factory=list)
    origins: dict[str, Origin] = field(default_factory=dict)

    def origin(self, name: str, *, custom: bool) -> Origin:
        """What a call of that chat name is a call of. ``custom``: the upstream called it as a custom tool.

        An unknown name is a function's.
        """
        origin = self.origins.get(name) or Origin("function_call", name)
        return replace(origin, item="custom_tool_call") if custom else origin


def plan(request: dict[str, Any], items: list[Item], dialect: Dialect) -> ToolPlan:
    """The plan for a request in its context. ``items``: all of the context, oldest first, the request's input included.

    Raises InvalidRequest for a tool or choice this server cannot honour, before anything is sent or stored.
    """
    choice = request.get("tool_choice", "auto")
    found, dropped = _collected(request, items, dialect)
    origins = _origins(found)
    tools = [tool.chat for tool in found.values()]
    if choice == "none":
        return ToolPlan(dropped=dropped, origins=origins)
    if not tools:
        if choice == "required":
            raise InvalidRequest(
                "Tool choice 'required' must be specified with 'tools' parameter.", param="tool_choice"
            )
        if isinstance(choice, dict):
            _Names(found).chosen(choice)
        return ToolPlan(dropped=dropped)
    if not isinstance(choice, dict):
        return ToolPlan(tools, choice if "tool_choice" in request else None, None, dropped, origins)
    if choice["type"] != "allowed_tools":
        one = _Names(found).chosen(choice)
        return ToolPlan(tools if dialect.named_tools else [one.chat], one.named, None, dropped, origins)
    chosen = _allowed(choice, _Names(found), dropped)
    mode, names = choice.get("mode") or "auto", frozenset(tool.name for tool in chosen)
    stood_for = {tool.origin for tool in chosen}
    allowed = names | {name for name, origin in origins.items() if origin in stood_for}
    if dialect.openai_like:
        native = {"mode": mode, "tools": [tool.named for tool in chosen]}
        return ToolPlan(tools, {"type": "allowed_tools", "allowed_tools": native}, allowed, dropped, origins)
    few = [tool.chat for name, tool in found.items() if name in names]
    sent: Any = chosen[0].named if mode == "required" and len(few) == 1 else mode
    return ToolPlan(few, sent, allowed, dropped, origins)


def echo(tools: list[Tool]) -> list[Tool]:
    """Tools as the response repeats them: as given, function tools with every key (wire §6.6)."""
    return [
        {"description": None, "parameters": None, "strict": None, **tool} if tool.get("type") == "function" else tool
        for tool in tools
    ]


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


# -- declarations


@dataclass(frozen=True)
class _Declared:
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


_Found = dict[str, _Declared]


def _collected(request: dict[str, Any], items: list[Item], dialect: Dialect) -> tuple[_Found, list[str]]:
    """(every tool by its chat name, in order of first declaration; the types left out).

    A later list may declare a tool anew. Raises for a name that a list has twice or that two tools come out under.
    """
    found: _Found = {}
    dropped: dict[str, None] = {}
    choice = request.get("tool_choice")
    for tools in _lists(request, items):
        seen: set[str] = set()
        for place, namespace, tool in tools:
            if _is_dropped(tool, choice, dialect.unsupported_tools, place, namespace):
                dropped[tool["type"]] = None
                continue
            declared = _declared(tool, namespace, dialect)
            known = found.get(declared.name)
            if declared.name in seen or (known and _identity(known) != _identity(declared)):
                raise InvalidRequest(
                    f"Invalid '{place}': another tool comes out under the name '{declared.name}' too."
                    " Names of tools must be unique.",
                    param=_within(place, "name"),
                    code="invalid_value",
                )
            seen.add(declared.name)
            found[declared.name] = declared
    return found, list(dropped)


def _origins(found: _Found) -> dict[str, Origin]:
    """What a plan's names stand for. Small models call a tool in a namespace by other names than they were told: its
    own, or both with a dot; each stands for it too, where it can stand for nothing else.
    """
    others: dict[str, list[Origin]] = {}
    for tool in found.values():
        name, space = tool.origin.name, tool.origin.namespace
        for other in (name, f"{space}.{name}", f"{space}__{name}") if space is not None else ():
            others.setdefault(other, []).append(tool.origin)
    clear = {name: origins[0] for name, origins in others.items() if len(origins) == 1 and name not in found}
    known = {name: tool.origin for name, tool in found.items() if tool.origin != Origin("function_call", name)}
    return known | clear


_Placed = tuple[str, Tool | None, Tool]
"""A tool, its place in the request, and the namespace it is in."""


def _lists(request: dict[str, Any], items: list[Item]) -> list[list[_Placed]]:
    """The lists of tools, oldest first: those of earlier ``additional_tools`` items, ``tools``, those of this input."""
    own = [
        (at, item["tools"]) for at, item in enumerate(request.get("input") or ()) if item["type"] == "additional_tools"
    ]
    known = [item["tools"] for item in items if item["type"] == "additional_tools"]
    older = known[: max(0, len(known) - len(own))]
    return [
        *[[("input", space, tool) for _, space, tool in _placed(tools, "")] for tools in older],
        list(_placed(request.get("tools") or [], "tools")),
        *[list(_placed(tools, f"input[{at}].tools")) for at, tools in own],
    ]


def _placed(tools: list[Tool], at: str) -> Iterator[_Placed]:
    for index, tool in enumerate(tools):
        if tool["type"] != "namespace":
            yield f"{at}[{index}]", None, tool
        else:
            yield from ((f"{at}[{index}].tools[{n}]", tool, inner) for n, inner in enumerate(tool["tools"]))


def _identity(tool: _Declared) -> tuple[str | None, str]:
    return tool.origin.namespace, tool.origin.name


def _is_dropped(tool: Tool, choice: Any, policy: str, place: str, namespace: Tool | None) -> bool:
    """Whether a tool is left out. Raises for one that can be neither served nor left out in silence.

    Codex sends ``web_search`` with every request: refusing it would lock Codex out (wire §6.6).
    """
    type_, unsupported, environment = tool["type"], "unsupported_parameter", None
    if type_ in _ITEMS and (namespace is None or type_ not in BY_TYPE):
        environment = tool.get("environment", {}).get("type", "local") if type_ == "shell" else "local"
        if environment == "local":
            return False
    is_chosen = isinstance(choice, dict) and _family(choice["type"]) == _family(type_)
    if policy != "reject" and not is_chosen and (policy == "drop" or type_.startswith(_DROPPABLE)):
        return True
    if environment:
        message = f"Shell environment '{environment}' is not supported by this server, only 'local' is."
        raise InvalidRequest(message, param=_within(place, "environment.type"), code=unsupported)
    inside = " in a namespace" if namespace is not None else ""
    message = f"Tool type '{type_}' is not supported by this server{inside}."
    raise InvalidRequest(message, param=_within(place, "type"), code=unsupported)


def _within(place: str, key: str) -> str:
    return place if place == "input" else f"{place}.{key}"


def _declared(tool: Tool, namespace: Tool | None, dialect: Dialect) -> _Declared:
    type_ = tool["type"]
    if type_ in BY_TYPE:
        return _Declared({"type": "function", "function": BY_TYPE[type_].declaration}, Origin(_ITEMS[type_], type_))
    space = namespace["name"] if namespace else None
    head = {"name": chat_name(tool["name"], space)}
    if (description := _description(tool, namespace)) is not None:
        head["description"] = description
    origin = Origin(_ITEMS[type_], tool["name"], space)
    if type_ == "function":
        return _Declared({"type": "function", "function": _function(tool, head, dialect)}, origin)
    if dialect.custom_tools:
        return _Declared({"type": "custom", "custom": head | _format(tool)}, origin)
    return _Declared({"type": "function", "function": _emulated(tool, head)}, origin)


def _description(tool: Tool, namespace: Tool | None) -> Any:
    """The tool's own; the first tool of a namespace also says what all of them are for."""
    own = tool.get("description")
    if namespace and namespace.get("description") and tool is namespace["tools"][0]:
        about = f"About all tools named {namespace['name']}__…: {namespace['description']}"
        return f"{own}\n\n{about}" if own else about
    return own


def _function(tool: Tool, head: Tool, dialect: Dialect) -> Tool:
    out = {**head, "parameters": tool.get("parameters") or _EMPTY_SCHEMA}
    if tool.get("strict") is not None and dialect.strict_tools:
        out["strict"] = tool["strict"]
    return out


def _format(tool: Tool) -> Tool:
    """A custom tool's format; a grammar is flat here and nested upstream."""
    format_ = tool.get("format")
    if not format_:
        return {}
    if format_["type"] != "grammar":
        return {"format": format_}
    return {"format": {"type": "grammar", "grammar": {key: format_[key] for key in ("syntax", "definition")}}}


def _emulated(tool: Tool, head: Tool) -> Tool:
    """The function with one text that stands for a custom tool (wire §7.7)."""
    told, about = head.get("description"), "Free-form text."
    format_ = tool.get("format") or {}
    if format_.get("type") == "grammar":
        about = f"Text that follows the {format_['syntax']} grammar in the description of this tool."
        grammar = f"The input must follow this {format_['syntax']} grammar:\n{format_['definition']}"
        told = f"{told}\n\n{grammar}" if told else grammar
    parameters = {
        "type": "object",
        "properties": {"input": {"type": "string", "description": about}},
        "required": ["input"],
        "additionalProperties": False,
    }
    return {**head, **({"description": told} if told else {}), "parameters": parameters}


# -- the choice


class _Names:
    """The found tools by every way to name one."""

    def __init__(self, found: _Found) -> None:
        self.spaces: dict[str, list[_Declared]] = {}
        self._exact: dict[tuple[str, str | None, str], _Declared] = {}
        self._own: dict[tuple[str, str], list[_Declared]] = {}
        for tool in found.values():
            item, (space, name) = tool.origin.item, _identity(tool)
            self._exact[item, space, name] = self._exact[item, None, tool.name] = tool
            self._own.setdefault((item, name), []).append(tool)
            if space is not None:
                self.spaces.setdefault(space, []).append(tool)

    def chosen(self, choice: Tool) -> _Declared:
        """The tool that is named. One in a namespace: by both names, its chat name, or its own if that is clear."""
        type_ = choice["type"]
        name, space, item = choice.get("name") or type_, choice.get("namespace"), _ITEMS.get(type_, "")
        tool = self._exact.get((item, space, name))
        own = self._own.get((item, name), [])
        if tool is None and space is None and len(own) == 1:
            tool = own[0]
        if tool is None:
            raise InvalidRequest(f"Tool choice '{name}' not found in 'tools' parameter.", param="tool_choice")
        return tool


def _allowed(choice: Tool, names: _Names, dropped: list[str]) -> list[_Declared]:
    """The tools of an allowed set, each once; a namespace stands for all of its tools."""
    chosen: _Found = {}
    left_out = set(map(_family, dropped))
    for given in choice.get("tools") or []:
        if _family(given["type"]) in left_out:
            continue
        is_space = given["type"] == "namespace" and given.get("name") in names.spaces
        for tool in names.spaces[given["name"]] if is_space else [names.chosen(given)]:
            chosen[tool.name] = tool
    if not chosen:
        raise InvalidRequest("'allowed_tools' must name at least one tool.", param="tool_choice.tools")
    return list(chosen.values())


def _family(type_: str) -> str:
    """What a hosted tool is called by all of its versions: web_search_preview is web_search."""
    return next((name for name in _DROPPABLE if type_.startswith(name)), type_)
