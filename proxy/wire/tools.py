"""Tool declarations, tool_choice and text formats as clients may write them (wire §4.2, §6.6, §6.7).

Which tool types can be served is not decided here: unknown ones pass.
"""

from __future__ import annotations

import re
from typing import Any

from proxy import redact
from proxy.errors import InvalidRequest
from proxy.wire import check, mcp

_MOST_SERVERS = 32
"""Each is a connection for as long as a turn takes."""
_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # types are told in a header
_FORMATS = ("text", "json_object", "json_schema")
_COMPARISONS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin")
_MODES = ("none", "auto", "required")
_HOSTED_CHOICES = (
    "file_search",
    "web_search",
    "web_search_2025_08_26",
    "web_search_preview",
    "web_search_preview_2025_03_11",
    "computer",
    "computer_use",
    "computer_use_preview",
    "code_interpreter",
    "image_generation",
    "tool_search",
    "local_shell",
    "shell",
    "apply_patch",
    "programmatic_tool_calling",
)


def declarations(value: Any, at: str, *, inner: bool = False) -> list[dict[str, Any]]:
    """A list of tools, functions in their flat form. ``inner``: those of a namespace, which holds no namespaces.

    Raises for a function or custom tool without a name or with the name of another one, and the same of MCP servers,
    and for too many of these.
    """
    names: set[str] = set()
    labels: set[str] = set()
    tools: list[dict[str, Any]] = []
    for i, given in enumerate(check.array(value, at)):
        place = f"{at}[{i}]"
        tool = _declaration(given, place)
        if tool["type"] in _DECLARED:
            _once(tool["name"], names, f"{place}.name", "tool is named", "Names of tools")
        elif tool["type"] == "mcp":
            _once(tool["server_label"], labels, f"{place}.server_label", "server is labeled", "Labels of servers")
            if len(labels) > _MOST_SERVERS:
                raise InvalidRequest(
                    f"Invalid '{at}': more than {_MOST_SERVERS} MCP servers.",
                    code="array_above_max_length",
                    param=at,
                )
        elif tool["type"] == "namespace" and not inner:
            check.required(tool.get("name"), f"{place}.name")
            if "tools" not in tool:
                raise check.missing(f"{place}.tools")
            tool["tools"] = declarations(tool["tools"], f"{place}.tools", inner=True)
        elif tool["type"] == "shell" and "environment" in tool:
            environment = check.without_nulls(tool["environment"], f"{place}.environment")
            check.required(environment.get("type"), f"{place}.environment.type")
            tool["environment"] = environment
        tools.append(tool)
    return redact.tools(tools, inner=True) if inner else tools


def _declaration(given: Any, at: str) -> dict[str, Any]:
    tool = check.without_nulls(given, at)
    type_ = check.required(tool.get("type"), f"{at}.type")
    if not _TYPE.fullmatch(type_):
        raise check.wrong_form(f"{at}.type", type_, "1 to 64 letters, digits and any of '_', '.', '-'")
    if type_ == "function":
        tool = _flat(tool, at)
    if type_ in _DECLARED:
        check.required(tool.get("name"), f"{at}.name")
        check.fields(tool, at, _DECLARED[type_])
    elif type_ == "mcp":
        mcp.server(tool, at)
    elif type_.startswith("web_search"):
        check.fields(tool, at, _WEB_SEARCH)
    elif type_ in _BOUND:
        check.fields(tool, at, _BOUND[type_])
    return tool


def _flat(tool: dict[str, Any], at: str) -> dict[str, Any]:
    """A function as it is written here from the form of chat completions, ``{"type", "function": {"name", …}}``."""
    if "name" in tool or not isinstance(tool.get("function"), dict):
        return tool
    function = check.without_nulls(tool["function"], f"{at}.function")
    check.required(function.get("name"), f"{at}.function.name")
    return {**{key: inner for key, inner in tool.items() if key != "function"}, **function, "type": "function"}


def _once(name: str, names: set[str], at: str, said: str, which: str) -> None:
    if name in names:
        raise InvalidRequest(
            f"Invalid '{at}': another {said} '{name}'. {which} must be unique.",
            code="invalid_value",
            param=at,
        )
    names.add(name)


def choice(value: Any, at: str) -> str | dict[str, Any]:
    """A mode, a named tool or a set of allowed tools; whether they are declared is not looked up here."""
    if isinstance(value, str):
        return check.one_of(*_MODES)(value, at)
    if not isinstance(value, dict):
        raise check.wrong_type(at, "one of a string or object", value)
    picked = check.without_nulls(value, at)
    type_ = check.required(picked.get("type"), f"{at}.type")
    if type_ == "function":
        picked = _flat(picked, at)
    if type_ in ("function", "custom"):
        _named(picked, at)
    elif type_ == "mcp":
        _of_server(picked, at)
    elif type_ == "allowed_tools":
        picked["mode"] = check.one_of("auto", "required")(
            check.required(picked.get("mode"), f"{at}.mode"), f"{at}.mode"
        )
        picked["tools"] = _allowed(picked.get("tools"), f"{at}.tools")
    elif type_ not in _HOSTED_CHOICES:
        raise check.wrong_value(f"{at}.type", type_, ("function", "custom", "allowed_tools", "mcp", *_HOSTED_CHOICES))
    return picked


def _named(tool: dict[str, Any], at: str) -> None:
    check.required(tool.get("name"), f"{at}.name")
    if "namespace" in tool:
        check.string(tool["namespace"], f"{at}.namespace")


def _of_server(tool: dict[str, Any], at: str) -> None:
    check.required(tool.get("server_label"), f"{at}.server_label")
    if "name" in tool:
        check.string(tool["name"], f"{at}.name")


def _allowed(value: Any, at: str) -> list[dict[str, Any]]:
    if value is None:
        raise check.missing(at)
    tools = []
    for i, given in enumerate(check.array(value, at)):
        tool = check.without_nulls(given, f"{at}[{i}]")
        type_ = check.required(tool.get("type"), f"{at}[{i}].type")
        if type_ == "function":
            tool = _flat(tool, f"{at}[{i}]")
        if type_ in ("function", "custom", "namespace"):
            _named(tool, f"{at}[{i}]")
        elif type_ == "mcp":
            _of_server(tool, f"{at}[{i}]")
        tools.append(tool)
    return tools


def text(value: Any, at: str) -> dict[str, Any]:
    """The ``text`` parameter: verbosity and the format of the answer."""
    return check.fields(check.without_nulls(value, at), at, _TEXT)


def _format(value: Any, at: str) -> dict[str, Any]:
    format_ = check.without_nulls(value, at)
    if check.one_of(*_FORMATS)(check.required(format_.get("type"), f"{at}.type"), f"{at}.type") == "json_schema":
        check.required(format_.get("name"), f"{at}.name")
        if "schema" not in format_:
            raise check.missing(f"{at}.schema")
        check.fields(format_, at, _SCHEMA)
    return format_


def _custom_format(value: Any, at: str) -> dict[str, Any]:
    format_ = check.without_nulls(value, at)
    if check.one_of("text", "grammar")(check.required(format_.get("type"), f"{at}.type"), f"{at}.type") == "grammar":
        grammar = format_.get("grammar")  # as in chat completions: {"type", "grammar": {"syntax", "definition"}}
        if isinstance(grammar, dict) and "definition" not in format_:
            format_ = {"type": "grammar", **check.without_nulls(grammar, f"{at}.grammar")}
        syntax = check.required(format_.get("syntax"), f"{at}.syntax")
        check.one_of("lark", "regex")(syntax, f"{at}.syntax")
        check.required(format_.get("definition"), f"{at}.definition")
    return format_


def _filters(value: Any, at: str) -> dict[str, Any]:
    return check.fields(check.without_nulls(value, at), at, _DOMAINS)


def _file_filters(value: Any, at: str, deepest: int = 8) -> dict[str, Any]:
    """A comparison of an attribute, or several of them under ``and`` or ``or``."""
    given = check.without_nulls(value, at)
    type_ = check.one_of(*_COMPARISONS, "and", "or")(check.required(given.get("type"), f"{at}.type"), f"{at}.type")
    if type_ in _COMPARISONS:
        check.required(given.get("key"), f"{at}.key")
        if "value" not in given:
            raise check.missing(f"{at}.value")
        return given
    if not deepest:
        raise check.unsupported(at, f"'{at}' is nested too deeply: at most 8 filters may lie in each other.")
    if "filters" not in given:
        raise check.missing(f"{at}.filters")
    inner = enumerate(check.array(given["filters"], f"{at}.filters"))
    return {**given, "filters": [_file_filters(one, f"{at}.filters[{i}]", deepest - 1) for i, one in inner]}


def _ranking(value: Any, at: str) -> dict[str, Any]:
    return check.fields(check.without_nulls(value, at), at, _RANKING)


def _container(value: Any, at: str) -> str | dict[str, Any]:
    """The id of a container, or what one is made of."""
    if isinstance(value, str):
        return check.required(value, at)
    if not isinstance(value, dict):
        raise check.wrong_type(at, "one of a string or object", value)
    given = check.without_nulls(value, at)
    check.one_of("auto")(check.required(given.get("type"), f"{at}.type"), f"{at}.type")
    return check.fields(given, at, {"file_ids": check.strings})


def _location(value: Any, at: str) -> dict[str, Any]:
    return check.fields(check.without_nulls(value, at), at, _LOCATION)


_DOMAINS: dict[str, check.Check] = {"allowed_domains": check.strings, "blocked_domains": check.strings}
_LOCATION: dict[str, check.Check] = {
    "type": check.one_of("approximate"),
    **dict.fromkeys(("city", "country", "region", "timezone"), check.string),
}
_WEB_SEARCH: dict[str, check.Check] = {
    "filters": _filters,
    "user_location": _location,
    "search_context_size": check.one_of("low", "medium", "high"),
    "external_web_access": check.boolean,
}
_RANKING: dict[str, check.Check] = {
    "ranker": check.string,
    "score_threshold": check.decimal(0, 1),
    "hybrid_search": check.mapping,
}
_BOUND: dict[str, dict[str, check.Check]] = {
    "file_search": {
        "vector_store_ids": check.strings,
        "max_num_results": check.integer(1, 50),
        "filters": _file_filters,
        "ranking_options": _ranking,
    },
    "code_interpreter": {"container": _container},
}
_DECLARED: dict[str, dict[str, check.Check]] = {
    "function": {"description": check.string, "parameters": check.mapping, "strict": check.boolean},
    "custom": {"description": check.string, "format": _custom_format},
}
_SCHEMA: dict[str, check.Check] = {"schema": check.mapping, "description": check.string, "strict": check.boolean}
_TEXT: dict[str, check.Check] = {"format": _format, "verbosity": check.string}
