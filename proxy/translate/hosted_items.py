"""Items of tools that ran here, or at another server, as what the model is to read of them (wire §7.10).

A call and its outcome are one item. What the model reads of a typed call is not in what clients see of it, but in
``x_upstream``, beside what the upstream must get back and whether the call was made beside the one before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from proxy import codec
from proxy.translate.tool_names import HOSTED_ITEMS, chat_name

Item = dict[str, Any]

_TYPED = {item: type_ for type_, item in HOSTED_ITEMS.items()}
_NO_OUTPUT = "No output was given for this call."
_NO_LEAVE = "The user did not approve this call."


def as_calls(items: Iterable[Item]) -> list[Item]:
    """The items, where a request for approval that was refused is a call that says so.

    One that was approved says nothing: the call it led to does. Of several answers to one the last counts.
    """
    refused: dict[str, Item | None] = {}
    for item in (items := list(items)):
        if item["type"] == "mcp_approval_response":
            refused[str(item.get("approval_request_id"))] = item if item.get("approve") is False else None
    return [_refused(item, refused.get(str(item.get("id")))) for item in items] if refused else items


def _refused(item: Item, answer: Item | None) -> Item:
    if item["type"] != "mcp_approval_request" or answer is None:
        return item
    said = f"{_NO_LEAVE} {answer['reason']}" if answer.get("reason") else _NO_LEAVE
    return {**item, "type": "mcp_call", "output": said}


def is_answered(item: Item) -> bool:
    """Whether an item is a call that holds what came of it, as far as the model may read it."""
    return item["type"] == "mcp_call" or (item["type"] in _TYPED and "output" in _kept(item))


def is_beside(item: Item) -> bool:
    """Whether the model made a call together with the one before it."""
    return is_answered(item) and bool(_kept(item).get("beside"))


def known_of(item: Item) -> Iterable[Item]:
    """What of an outcome can be cited."""
    found: list[Item] = _kept(item).get("found", []) if item["type"] in _TYPED else []
    return found


def extras_of(item: Item) -> Item:
    """What the upstream must get back with a call (wire §11.6)."""
    extras = _kept(item).get("extras")
    return extras if isinstance(extras, dict) else {}


def name_of(item: Item) -> str:
    """The chat name of the tool that was called."""
    if item["type"] in _TYPED:
        return _TYPED[item["type"]]
    return chat_name(str(item.get("name") or ""), str(item.get("server_label", "")))


def arguments_of(item: Item) -> Any:
    """The arguments of a call, as JSON."""
    action = item.get("action") or {}
    match item["type"]:
        case "web_search_call":
            told = {"query": action.get("query", "")}
        case "file_search_call":
            told = {"queries": item.get("queries") or []}
        case "code_interpreter_call":
            told = {"code": item.get("code") or ""}
        case _:
            return item.get("arguments") or ""
    return codec.dumps(told).decode()


def output_of(item: Item) -> Any:
    """What the model reads of a call."""
    if item["type"] in _TYPED:
        return _kept(item)["output"]
    if item.get("output") or item.get("error"):
        return item.get("output") or error_text(item["error"])
    return _NO_OUTPUT if item.get("status") == "incomplete" else ""


def error_text(error: Any) -> str:
    """What a failed tool said, for the model to read."""
    if not isinstance(error, dict):
        return error if isinstance(error, str) else codec.dumps(error).decode()
    parts = error.get("content")
    texts = [str(part.get("text") or "") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return "\n".join(filter(None, texts)) or str(error.get("message") or "") or codec.dumps(error).decode()


def _kept(item: Item) -> Item:
    kept = item.get("x_upstream")
    return kept if isinstance(kept, dict) else {}
