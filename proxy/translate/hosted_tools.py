"""Tools that run here, declared upstream as functions: those of MCP servers, and hosted types that are bound (§6.6)."""

from __future__ import annotations

from typing import Any

from proxy.errors import InvalidRequest
from proxy.translate.hosting import Hosting
from proxy.translate.tool_names import HOSTED_ITEMS, Declared, Origin, Tool, chat_name, family

_CITE = "The results are numbered. Right after each statement that rests on one, cite it by its number, such as [1]."


def declared(tool: Tool, at: str, namespace: Tool | None, hosting: Hosting) -> list[Declared] | None:
    """The functions that stand for a tool that runs here; None for a tool that does not.

    ``at``: its place in the request. Raises InvalidRequest for an MCP server that is declared in any place but
    ``tools``: a later turn would know nothing of its secrets.
    """
    type_ = family(tool["type"])
    if type_ == "mcp" and hosting.mcp:
        if namespace is not None or not at.startswith("tools["):
            place = at if at == "input" else f"{at}.type"
            raise InvalidRequest(
                f"Invalid '{place}': tools of type 'mcp' can only be declared in 'tools' itself.",
                param=place,
                code="unsupported_parameter",
            )
        return _of_server(tool, hosting.servers.get(tool["server_label"], []))
    if type_ in hosting.types and namespace is None and tool.get("external_web_access") is not False:
        function = {"type": "function", "function": _bound(type_, tool)}
        return [Declared(function, Origin(HOSTED_ITEMS[type_], type_, None, tool))]
    return None


def _bound(type_: str, tool: Tool) -> Tool:
    """The function of a bound type. Of the user's place the model is told, as most search services do not heed it."""
    function, place = _FUNCTIONS[type_], tool.get("user_location") or {}
    where = ", ".join(place[key] for key in ("city", "region", "country", "timezone") if place.get(key))
    return {**function, "description": f"{function['description']} The user is in {where}."} if where else function


def allowed(tool: Tool, listed: list[Tool]) -> list[Tool]:
    """What an mcp tool's ``allowed_tools`` leaves of its server's tools."""
    given = tool.get("allowed_tools")
    if given is None or given == {}:
        return listed
    if isinstance(given, list):
        given = {"tool_names": given}
    return [one for one in listed if _matches(given, one)]


def needs_approval(tool: Tool, one: Tool) -> bool:
    """Whether a client must be asked before this one of the server's tools is called: always, if nothing is said."""
    given = tool.get("require_approval", "always")
    if isinstance(given, str):
        return given != "never"
    if given.get("always") and _matches(given["always"], one):
        return True
    return not (given.get("never") and _matches(given["never"], one))


def _matches(given: dict[str, Any], one: Tool) -> bool:
    """Whether a filter, of names or of tools that change nothing, takes a tool."""
    names, read_only = given.get("tool_names"), given.get("read_only")
    hints = one.get("annotations")
    changes_nothing = isinstance(hints, dict) and hints.get("readOnlyHint") is True
    return (names is None or one["name"] in names) and (read_only is None or read_only == changes_nothing)


def _of_server(tool: Tool, listed: list[Tool]) -> list[Declared]:
    """Each tool of a server once, whatever the server says; the first also tells what the server is for."""
    label, out = tool["server_label"], dict[str, Declared]()
    for one in allowed(tool, listed):
        described = [one.get("description")]
        if not out and (about := tool.get("server_description")):
            described.append(f"About all tools named {label}__…: {about}")
        head: Tool = {"name": chat_name(one["name"], label)}
        if text := "\n\n".join(filter(None, described)):
            head["description"] = text
        item = "mcp_approval_request" if needs_approval(tool, one) else "mcp_call"
        function = {**head, "parameters": _object_schema(one.get("input_schema"))}
        made = Declared({"type": "function", "function": function}, Origin(item, one["name"], label, tool))
        out.setdefault(made.name, made)
    return list(out.values())


def _object_schema(schema: Any) -> Tool:
    """A schema that backends take: arguments are always an object."""
    return {"properties": {}, **(schema if isinstance(schema, dict) else {}), "type": "object"}


def _function(name: str, description: str, key: str, about: dict[str, Any]) -> Tool:
    parameters = {"type": "object", "properties": {key: about}, "required": [key], "additionalProperties": False}
    return {"name": name, "description": description, "parameters": parameters}


_FUNCTIONS = {
    "web_search": _function(
        "web_search", f"Searches the web. {_CITE}", "query", {"type": "string", "description": "What to search for."}
    ),
    "file_search": _function(
        "file_search",
        f"Searches the files that were given for this talk. {_CITE}",
        "queries",
        {"type": "array", "items": {"type": "string"}, "description": "What to search for, in one or more ways."},
    ),
    "code_interpreter": _function(
        "code_interpreter",
        "Runs Python code and returns what it prints.",
        "code",
        {"type": "string", "description": "The program. Only what it prints is returned."},
    ),
}
