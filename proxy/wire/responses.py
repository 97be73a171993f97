"""The bodies of ``POST /v1/responses`` and beside it (wire §3.6, §3.7, §4.1): types, bounds and what excludes what."""

from __future__ import annotations

from typing import Any

from proxy.errors import InvalidRequest
from proxy.wire import check, items, tools

_CONTEXT = ("input", "previous_response_id", "conversation", "prompt")


def create_response(body: Any) -> dict[str, Any]:
    """The request in one shape: no nulls, ``input`` a list of items in stored form, ``conversation`` an id.

    Unknown keys are kept and never an error (wire §1.10). Raises ``InvalidRequest`` for the first fault found: what is
    missing, then single fields in the order in which they came, then fields that exclude each other.
    """
    request = check.without_nulls(body, "")
    if "model" not in request and "prompt" not in request:
        raise check.missing("model")
    if not any(name in request for name in _CONTEXT):
        raise check.missing("input")
    if request.get("stream") is not True:
        request.pop("stream_options", None)  # says something about streams only
    check.fields(request, "", _PARAMETERS)
    _combinations(request)
    request.setdefault("input", [])
    return request


def compact_response(body: Any) -> dict[str, Any]:
    """The request for a compaction in the same shape (wire §3.7). Raises as ``create_response`` does."""
    request = check.without_nulls(body, "")
    if "model" not in request:
        raise check.missing("model")
    if "conversation" in request:
        raise check.unsupported(
            "conversation",
            "Unsupported parameter: 'conversation' is not supported here. Send its items as 'input', or the id of its"
            " newest response as 'previous_response_id'.",
        )
    if "input" not in request and "previous_response_id" not in request:
        raise check.missing("input")
    check.fields(request, "", _PARAMETERS)
    request.setdefault("input", [])
    return request


def count_input_tokens(body: Any) -> dict[str, Any]:
    """The request whose input is to be counted, in the same shape (wire §3.6). Raises as ``create_response`` does."""
    request = check.without_nulls(body, "")
    if "model" not in request:  # only the upstream knows its tokenizers, by their models
        raise check.missing("model")
    check.fields(request, "", _PARAMETERS)
    _exclude(request)
    request.setdefault("input", [])
    return request


def _exclude(request: dict[str, Any]) -> None:
    if "previous_response_id" in request and "conversation" in request:
        raise InvalidRequest(
            "Cannot provide both 'previous_response_id' and 'conversation' in the same request.",
            code="mutually_exclusive_parameters",
            param="previous_response_id",
        )


def _combinations(request: dict[str, Any]) -> None:
    _exclude(request)
    if request.get("background") and request.get("store") is False:
        raise check.unsupported("background", "Background mode requires 'store' to be true.")


def _input(value: Any, at: str) -> list[items.Item]:
    if isinstance(value, str):
        check.short(value, at, check.LONGEST_TEXT)
        return [items.input_item({"role": "user", "content": value}, at)]
    if not isinstance(value, list):
        raise check.wrong_type(at, "one of a string or array of objects", value)
    stored = items.input_items(value, at)
    for i, item in enumerate(stored[:-1]):
        if item["type"] == "compaction_trigger":
            raise InvalidRequest(
                "Invalid value: 'compaction_trigger'. An item of this type must be the last of the input.",
                code="invalid_value",
                param=f"{at}[{i}].type",
            )
    return stored


def _conversation(value: Any, at: str) -> str:
    if isinstance(value, dict):
        return check.required(value.get("id"), f"{at}.id")
    if not isinstance(value, str):
        raise check.wrong_type(at, "one of a string or object", value)
    return check.required(value, at)


def _prompt(value: Any, at: str) -> Any:
    raise check.unsupported(
        at,
        "Unsupported parameter: 'prompt' is not supported by this server, which keeps no prompt templates. "
        "Send the text as 'instructions' and 'input'.",
    )


def _reasoning(value: Any, at: str) -> dict[str, Any]:
    return check.fields(check.without_nulls(value, at), at, _REASONING)


def _stream_options(value: Any, at: str) -> dict[str, Any]:
    return check.fields(check.without_nulls(value, at), at, {"include_obfuscation": check.boolean})


def _context_management(value: Any, at: str) -> list[dict[str, Any]]:
    if value == []:
        raise check.empty_array(at)
    entries = []
    for i, given in enumerate(check.array(value, at)):
        entry = check.without_nulls(given, f"{at}[{i}]")
        check.one_of("compaction")(check.required(entry.get("type"), f"{at}[{i}].type"), f"{at}[{i}].type")
        entries.append(check.fields(entry, f"{at}[{i}]", {"compact_threshold": check.integer(1)}))
    return entries


_REASONING: dict[str, check.Check] = dict.fromkeys(("effort", "summary", "generate_summary"), check.string)

# service_tier, reasoning.effort and the like grow new values every season: those are the upstream's to judge.
_PARAMETERS: dict[str, check.Check] = {
    "model": check.string,
    "input": _input,
    "instructions": check.string,
    "previous_response_id": check.string,
    "conversation": _conversation,
    "prompt": _prompt,
    "stream": check.boolean,
    "stream_options": _stream_options,
    "background": check.boolean,
    "store": check.boolean,
    "generate": check.boolean,
    "max_output_tokens": check.integer(1),
    "max_tool_calls": check.integer(1),
    "temperature": check.decimal(0, 2),
    "top_p": check.decimal(0, 1),
    "top_logprobs": check.integer(0, 20),
    "presence_penalty": check.decimal(),
    "frequency_penalty": check.decimal(),
    "parallel_tool_calls": check.boolean,
    "tools": tools.declarations,
    "tool_choice": tools.choice,
    "text": tools.text,
    "reasoning": _reasoning,
    "truncation": check.one_of("auto", "disabled"),
    "include": check.strings,
    "metadata": check.metadata,
    "service_tier": check.string,
    "user": check.string,
    "safety_identifier": check.string,
    "prompt_cache_key": check.string,
    "prompt_cache_retention": check.string,
    "prompt_cache_options": check.mapping,
    "context_management": _context_management,
    "stream_id": check.string,
}
