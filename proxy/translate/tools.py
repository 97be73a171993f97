"""Tool declarations and ``tool_choice``: Responses to chat, and what comes back (wire §6.6, §6.7, §7.7–7.9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from proxy import redact
from proxy.errors import InvalidRequest
from proxy.translate import hosted_tools
from proxy.translate.client_tools import BY_TYPE
from proxy.translate.dialects import Dialect
from proxy.translate.hosting import NOTHING, Hosting
from proxy.translate.tool_choice import ITEMS, Names, allowed, unforced
from proxy.translate.tool_names import Declared, Found, Origin, Tool, chat_name, family, is_droppable

Item = dict[str, Any]

_EMPTY_SCHEMA = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class ToolPlan:
    """What goes upstream for a request's tools.

    ``tools`` and ``choice``: chat form, None when the key must not be sent. ``allowed``: the only names whose calls may
    pass, None for all. ``dropped``: the tool types left out, each once, in order. ``origins``: chat names, and others
    that models use for them, to what they stand for, where that is not a function of the same name. ``servers``: the
    names of all tools of each MCP server that is served.
    """

    tools: list[Tool] | None = None
    choice: Any = None
    allowed: frozenset[str] | None = None
    dropped: list[str] = field(default_factory=list)
    origins: dict[str, Origin] = field(default_factory=dict)
    servers: dict[str, frozenset[str]] = field(default_factory=dict)

    def origin(self, name: str, *, custom: bool) -> Origin:
        """What a call of that chat name is a call of. ``custom``: the upstream called it as a custom tool.

        An unknown name is a function's; one that begins as a server's do is a tool's that the server does not have.
        """
        origin = self.origins.get(name) or self._invented(name) or Origin("function_call", name)
        return replace(origin, item="custom_tool_call") if custom else origin

    def _invented(self, name: str) -> Origin | None:
        for label, known in self.servers.items():
            own = name.removeprefix(f"{label}__")
            if own and own != name and own not in known:
                return Origin("mcp_call", own, label)
        return None


def plan(request: dict[str, Any], items: list[Item], dialect: Dialect, hosting: Hosting = NOTHING) -> ToolPlan:
    """The plan for a request in its context. ``items``: all of the context, oldest first, the request's input included.
    ``hosting``: which of its tools run here.

    Raises InvalidRequest for a tool or choice this server cannot honour, before anything is sent or stored.
    """
    choice = request.get("tool_choice", "auto")
    found, dropped = _collected(request, items, dialect, hosting)
    origins = _origins(found)
    unlisted = _unlisted(request, hosting)
    if hosting.again or hosting.withheld or (isinstance(choice, dict) and choice.get("server_label") in unlisted):
        choice = unforced(choice)
    offered = {name: tool for name, tool in found.items() if not (hosting.withheld and tool.is_hosted)}
    tools = [tool.chat for tool in offered.values()]
    whole = ToolPlan(tools or None, None, None, dropped, origins, hosting.names)
    if choice == "none":
        return _idle(whole, found, dialect)
    if not tools:
        if choice == "required" and not unlisted:
            raise InvalidRequest(
                "Tool choice 'required' must be specified with 'tools' parameter.", param="tool_choice"
            )
        if isinstance(choice, dict) and not found and not (unlisted and choice["type"] == "allowed_tools"):
            Names(found).chosen(choice)
        return _idle(whole, found, dialect)
    if not isinstance(choice, dict):
        return replace(whole, choice=choice if "tool_choice" in request else None)
    if choice["type"] == "allowed_tools":
        chosen = allowed(choice, Names(found), {*map(family, dropped)}, unlisted)
        return _limited(chosen, choice.get("mode") or "auto", offered, whole, dialect)
    chosen = Names(found).chosen(choice)
    if len(chosen) > 1:
        return _limited(chosen, "required", offered, whole, dialect)
    kept = tools if dialect.named_tools else [chosen[0].chat]
    return replace(whole, tools=kept, choice=chosen[0].named)


def _idle(whole: ToolPlan, found: Found, dialect: Dialect) -> ToolPlan:
    """The plan in which nothing may be called."""
    if not dialect.idle_tools:
        return replace(whole, tools=None)
    return replace(whole, tools=[tool.chat for tool in found.values()] or None, choice="none")


def _unlisted(request: dict[str, Any], hosting: Hosting) -> set[str]:
    """The labels of MCP servers whose tools are not known: not asked for yet, or in vain."""
    given = request.get("tools") or () if hosting.mcp else ()
    return {tool["server_label"] for tool in given if tool["type"] == "mcp"} - hosting.servers.keys()


def _limited(chosen: list[Declared], mode: str, offered: Found, whole: ToolPlan, dialect: Dialect) -> ToolPlan:
    """The plan in which only the chosen ones of the offered tools may be called."""
    chosen = [tool for tool in chosen if tool.name in offered]
    if not chosen:
        return replace(whole, tools=None)
    names, stood_for = frozenset(tool.name for tool in chosen), {tool.origin for tool in chosen}
    passing = names | {name for name, origin in whole.origins.items() if origin in stood_for}
    if dialect.openai_like:
        native = {"mode": mode, "tools": [tool.named for tool in chosen]}
        return replace(whole, choice={"type": "allowed_tools", "allowed_tools": native}, allowed=passing)
    few = [tool.chat for name, tool in offered.items() if name in names]
    sent: Any = chosen[0].named if mode == "required" and len(few) == 1 else mode
    return replace(whole, tools=few, choice=sent, allowed=passing)


def echo(tools: list[Tool]) -> list[Tool]:
    """Tools as the response repeats them: as given, function tools with every key (wire §6.6), secrets left out."""
    return [_ECHOES.get(tool.get("type", ""), dict)(tool) for tool in tools]


def _function_echo(tool: Tool) -> Tool:
    return {"description": None, "parameters": None, "strict": None, **tool}


_ECHOES: dict[str, Callable[[Tool], Tool]] = {"function": _function_echo, "mcp": redact.mcp_tool}


# -- declarations


def _collected(
    request: dict[str, Any], items: list[Item], dialect: Dialect, hosting: Hosting
) -> tuple[Found, list[str]]:
    """(every tool by its chat name, in order of first declaration; the types left out).

    A later list may declare a tool anew. Raises for a name that a list has twice or that two tools come out under.
    """
    found: Found = {}
    dropped: dict[str, None] = {}
    choice = request.get("tool_choice")
    for tools in _lists(request, items):
        seen: set[str] = set()
        for place, namespace, tool in tools:
            hosted = hosted_tools.declared(tool, place, namespace, hosting)
            if hosted is None and _is_dropped(tool, choice, dialect.unsupported_tools, place, namespace):
                dropped[tool["type"]] = None
                continue
            for declared in [_declared(tool, namespace, dialect)] if hosted is None else hosted:
                known = found.get(declared.name)
                if declared.name in seen or (known and known.identity != declared.identity):
                    raise InvalidRequest(
                        f"Invalid '{place}': another tool comes out under the name '{declared.name}' too."
                        " Names of tools must be unique.",
                        param=_within(place, "name") if "name" in tool else place,
                        code="invalid_value",
                    )
                seen.add(declared.name)
                found[declared.name] = declared
    return found, list(dropped)


def _origins(found: Found) -> dict[str, Origin]:
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


def _is_dropped(tool: Tool, choice: Any, policy: str, place: str, namespace: Tool | None) -> bool:
    """Whether a tool is left out. Raises for one that can be neither served nor left out in silence.

    Codex sends ``web_search`` with every request: refusing it would lock Codex out (wire §6.6).
    """
    type_, unsupported, environment = tool["type"], "unsupported_parameter", None
    if type_ in ITEMS and (namespace is None or type_ not in BY_TYPE):
        environment = tool.get("environment", {}).get("type", "local") if type_ == "shell" else "local"
        if environment == "local":
            return False
    is_chosen = isinstance(choice, dict) and family(choice["type"]) == family(type_)
    if policy != "reject" and not is_chosen and (policy == "drop" or is_droppable(type_)):
        return True
    if environment:
        message = f"Shell environment '{environment}' is not supported by this server, only 'local' is."
        raise InvalidRequest(message, param=_within(place, "environment.type"), code=unsupported)
    inside = " in a namespace" if namespace is not None else ""
    message = f"Tool type '{type_}' is not supported by this server{inside}."
    raise InvalidRequest(message, param=_within(place, "type"), code=unsupported)


def _within(place: str, key: str) -> str:
    return place if place == "input" else f"{place}.{key}"


def _declared(tool: Tool, namespace: Tool | None, dialect: Dialect) -> Declared:
    type_ = tool["type"]
    if type_ in BY_TYPE:
        return Declared({"type": "function", "function": BY_TYPE[type_].declaration}, Origin(ITEMS[type_], type_))
    space = namespace["name"] if namespace else None
    head = {"name": chat_name(tool["name"], space)}
    if (description := _description(tool, namespace)) is not None:
        head["description"] = description
    origin = Origin(ITEMS[type_], tool["name"], space)
    if type_ == "function":
        return Declared({"type": "function", "function": _function(tool, head, dialect)}, origin)
    if dialect.custom_tools:
        return Declared({"type": "custom", "custom": head | _format(tool)}, origin)
    return Declared({"type": "function", "function": _emulated(tool, head)}, origin)


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
