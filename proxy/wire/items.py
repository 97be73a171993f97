"""Input items as clients send them, and the one form in which they are kept (wire §3.5, §6.1, §6.2).

The stored form has a type and no nulls (but in a shell's output and in calls of hosted tools, which have every key),
messages hold lists of typed parts, messages and calls a status. An item in stored form comes out as it went in. Ids
stay as they came: whether one may be kept is for the state to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy import codec, redact
from proxy.errors import InvalidRequest
from proxy.wire import check, mcp, parts, tools

Item = dict[str, Any]

_ROLES = ("assistant", "system", "developer", "user")
_OURS = "x_upstream"
"""What we keep with an item for the upstream and show to nobody (wire §11.6): no client may say it."""


def input_item(item: Any, at: str) -> Item:
    """One item in stored form; ``at`` is its place in the request, ``input[3]``.

    A missing type means a message when there is a role, a reference when there is nothing but an id. Items of unknown
    types are kept as given. Raises ``InvalidRequest`` naming the place inside the item.
    """
    if not isinstance(item, dict):
        raise check.wrong_type(at, "an object", item)
    type_ = item.get("type")
    if type_ is None:
        type_ = _implied(item, at)
    shape = _SHAPES.get(check.required(type_, f"{at}.type"))
    made = shape(item, at) if shape else {"type": type_}
    stored: Item = {}
    if item.get("id") is not None:
        stored["id"] = check.string(item["id"], f"{at}.id")
    stored["type"] = made.pop("type", type_)
    if item.get("status") is not None:
        stored["status"] = check.string(item["status"], f"{at}.status")
    elif type_ in _WITH_STATUS:
        stored["status"] = "completed"
    stored.update(made)
    if item.get("call_id") is not None:  # of foreign types too: calls and outputs are paired by it
        check.string(item["call_id"], f"{at}.call_id")
    for key, value in item.items():
        if value is not None and key not in stored and key != _OURS:
            stored[key] = value
    if isinstance(stored.get("tools"), list):  # no server is asked that an item names
        stored["tools"] = redact.tools(stored["tools"])
    return stored


def input_items(value: list[Any], at: str) -> list[Item]:
    """Every item of a list in stored form."""
    return [input_item(item, f"{at}[{i}]") for i, item in enumerate(value)]


def _implied(item: Item, at: str) -> str:
    if item.get("role") is not None:
        return "message"
    if [key for key, value in item.items() if value is not None] == ["id"]:
        return "item_reference"
    raise check.missing(f"{at}.type")


# Each shape checks one type's own fields and gives those it completes, in the order in which they are kept.


def _message(item: Item, at: str) -> Item:
    role = check.required(item.get("role"), f"{at}.role")
    if role not in _ROLES:
        raise check.wrong_value(f"{at}.role", role, _ROLES)
    text_type = "output_text" if role == "assistant" else "input_text"
    if "content" not in item:  # a mistake worth telling; null is what clients make of empty content
        raise check.missing(f"{at}.content")
    given = item["content"]
    return {"role": role, "content": [] if given is None else parts.content(given, f"{at}.content", text_type)}


def _call(item: Item, at: str) -> Item:
    return {
        "call_id": check.required(item.get("call_id"), f"{at}.call_id"),
        "name": check.required(item.get("name"), f"{at}.name"),
    }


def _function_call(item: Item, at: str) -> Item:
    return {**_call(item, at), "arguments": _arguments(item, at)}


def _arguments(item: Item, at: str) -> str:
    if "arguments" not in item:
        raise check.missing(f"{at}.arguments")
    arguments = item["arguments"]
    if arguments is None or isinstance(arguments, dict):  # some clients send the parsed object back
        arguments = _as_json(arguments or {}, f"{at}.arguments")
    return check.string(arguments, f"{at}.arguments")


def _as_json(value: Item, at: str) -> str:
    try:
        return codec.dumps(value).decode()
    except ValueError:  # what can be read may still be too deep to be written
        raise InvalidRequest(f"Invalid '{at}': nested too deeply.", code="invalid_value", param=at) from None


def _custom_tool_call(item: Item, at: str) -> Item:
    return {**_call(item, at), "input": _given_string(item, at, "input")}


def _output(item: Item, at: str) -> Item:
    call_id = check.required(item.get("call_id"), f"{at}.call_id")
    if "output" not in item:
        raise check.missing(f"{at}.output")
    output = "" if item["output"] is None else item["output"]
    if not isinstance(output, str):
        output = parts.content(output, f"{at}.output", "input_text")
    return {"call_id": call_id, "output": output}


def _reasoning(item: Item, at: str) -> Item:
    if item.keys() == {"type", "id"}:  # nothing but its id: the client means the stored one (wire §2.4)
        return _reference(item, at)
    made: Item = {"summary": _texts(item.get("summary"), f"{at}.summary")}
    if item.get("content") is not None:
        made["content"] = _texts(item["content"], f"{at}.content")
    if item.get("encrypted_content") is not None:
        place = f"{at}.encrypted_content"
        made["encrypted_content"] = check.short(item["encrypted_content"], place, check.LONGEST_SEALED)
    return made


def _texts(value: Any, at: str) -> list[parts.Part]:
    if value is None:
        return []
    texts = [check.without_nulls(part, f"{at}[{i}]") for i, part in enumerate(check.array(value, at))]
    return [check.fields(part, f"{at}[{i}]", _TEXT) for i, part in enumerate(texts)]


def _reference(item: Item, at: str) -> Item:
    check.required(item.get("id"), f"{at}.id")
    return {"type": "item_reference"}


def _compaction(item: Item, at: str) -> Item:
    sealed = check.required(item.get("encrypted_content"), f"{at}.encrypted_content")
    return {"encrypted_content": check.short(sealed, f"{at}.encrypted_content", check.LONGEST_SEALED)}


def _additional_tools(item: Item, at: str) -> Item:
    if item.get("tools") is None:
        raise check.missing(f"{at}.tools")
    role = check.one_of("developer")("developer" if item.get("role") is None else item["role"], f"{at}.role")
    return {"role": role, "tools": tools.declarations(item["tools"], f"{at}.tools")}


def _action_call(item: Item, at: str) -> Item:
    return _does(item, at, "action")


def _apply_patch_call(item: Item, at: str) -> Item:
    return _does(item, at, "operation")


def _does(item: Item, at: str, key: str) -> Item:
    """A call that says under ``key`` what is to be done."""
    call_id = check.required(item.get("call_id"), f"{at}.call_id")
    if item.get(key) is None:
        raise check.missing(f"{at}.{key}")
    return {"call_id": call_id, key: check.mapping(item[key], f"{at}.{key}")}


def _local_shell_output(item: Item, at: str) -> Item:
    """The published form has no ``call_id``: its ``id`` is the call's."""
    call_id = check.required(item.get("call_id") or item.get("id"), f"{at}.call_id")
    return {"call_id": call_id, "output": _given_string(item, at, "output")}


def _shell_output(item: Item, at: str) -> Item:
    call_id = check.required(item.get("call_id"), f"{at}.call_id")
    if item.get("output") is None:
        raise check.missing(f"{at}.output")
    entries = check.array(item["output"], f"{at}.output")
    output = [check.mapping(e, f"{at}.output[{i}]") for i, e in enumerate(entries)]
    longest = item.get("max_output_length")
    if longest is not None:
        check.integer(0)(longest, f"{at}.max_output_length")
    return {"call_id": call_id, "output": output, "max_output_length": longest}


def _apply_patch_output(item: Item, at: str) -> Item:
    made: Item = {"call_id": check.required(item.get("call_id"), f"{at}.call_id")}
    if item.get("output") is not None:
        made["output"] = _given_string(item, at, "output")
    return made


# Calls of tools that ran where the response was made. Descriptions of them want some keys also where they are null.


def _mcp_call(item: Item, at: str) -> Item:
    made = {key: check.required(item.get(key), f"{at}.{key}") for key in ("server_label", "name")}
    made["arguments"] = _arguments(item, at)
    error = item.get("error")
    if error is not None and not isinstance(error, str):
        check.mapping(error, f"{at}.error")
    told = {key: _string_or_null(item, at, key) for key in ("approval_request_id", "output")}
    return {**made, "approval_request_id": told["approval_request_id"], "error": error, "output": told["output"]}


def _web_search_call(item: Item, at: str) -> Item:
    if item.get("action") is None:  # as those of 2025 are
        return {}
    return {"action": check.fields(check.without_nulls(item["action"], f"{at}.action"), f"{at}.action", _ACTION)}


def _file_search_call(item: Item, at: str) -> Item:
    queries = check.strings(item.get("queries") or [], f"{at}.queries")
    return {"queries": queries, "results": _objects_or_null(item, at, "results")}


def _code_interpreter_call(item: Item, at: str) -> Item:
    made = {"code": _string_or_null(item, at, "code")}
    if item.get("container_id") is not None:
        made["container_id"] = check.string(item["container_id"], f"{at}.container_id")
    return {**made, "outputs": _objects_or_null(item, at, "outputs")}


def _string_or_null(item: Item, at: str, key: str) -> str | None:
    return None if item.get(key) is None else check.string(item[key], f"{at}.{key}")


def _objects_or_null(item: Item, at: str, key: str) -> list[Item] | None:
    if item.get(key) is None:
        return None
    given = enumerate(check.array(item[key], f"{at}.{key}"))
    return [check.without_nulls(one, f"{at}.{key}[{i}]") for i, one in given]


def _given_string(item: Item, at: str, key: str) -> str:
    if key not in item:
        raise check.missing(f"{at}.{key}")
    return "" if item[key] is None else check.string(item[key], f"{at}.{key}")


_TEXT: dict[str, check.Check] = {"text": check.string}
_ACTION: dict[str, check.Check] = {
    **dict.fromkeys(("type", "query", "url", "pattern"), check.string),
    "queries": check.strings,
    "sources": check.array,
}
_SHAPES: dict[str, Callable[[Item, str], Item]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _output,
    "custom_tool_call": _custom_tool_call,
    "custom_tool_call_output": _output,
    "reasoning": _reasoning,
    "item_reference": _reference,
    "compaction": _compaction,
    "additional_tools": _additional_tools,
    "local_shell_call": _action_call,
    "local_shell_call_output": _local_shell_output,
    "shell_call": _action_call,
    "shell_call_output": _shell_output,
    "apply_patch_call": _apply_patch_call,
    "apply_patch_call_output": _apply_patch_output,
    "web_search_call": _web_search_call,
    "file_search_call": _file_search_call,
    "code_interpreter_call": _code_interpreter_call,
    "mcp_list_tools": mcp.listing,
    "mcp_call": _mcp_call,
    "mcp_approval_request": mcp.approval_request,
    "mcp_approval_response": mcp.approval_response,
}
_WITHOUT_STATUS = {
    "reasoning",
    "item_reference",
    "compaction",
    "additional_tools",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
}
_WITH_STATUS = _SHAPES.keys() - _WITHOUT_STATUS
