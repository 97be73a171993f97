"""The Response object: skeleton and echo of the request (wire §5.1), usage (§5.4), its short form for the store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from proxy.translate.items import public
from proxy.translate.told import Tokens
from proxy.translate.tools import echo

Response = dict[str, Any]
Item = dict[str, Any]

_DEFAULTS: Response = {
    "background": False,
    "completed_at": None,
    "error": None,
    "frequency_penalty": 0.0,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "usage": None,
}
_ECHOED = (
    "background",
    "frequency_penalty",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "parallel_tool_calls",
    "presence_penalty",
    "previous_response_id",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "store",
    "temperature",
    "tool_choice",
    "top_logprobs",
    "top_p",
    "truncation",
)
_WHEN_GIVEN = ("user", "prompt_cache_retention", "prompt_cache_options")
_APART = frozenset({"id", "object", "created_at", "status", "model", "output", "conversation"})
_NONE = object()
_USAGE = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "total_tokens")


def skeleton(request: dict[str, Any], id_: str, created_at: int) -> Response:
    """The response as it stands before any output: every starred field of wire §5.1. ``created_at``: Unix seconds."""
    response: Response = {
        "id": id_,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "model": request["model"],
        "output": [],
        **_DEFAULTS,
        "service_tier": "auto",
    }
    response.update({key: request[key] for key in _ECHOED if key in request})
    response.update({key: request[key] for key in _WHEN_GIVEN if key in request})
    if tools := request.get("tools"):
        response["tools"] = echo(tools)
    if "text" in request:
        response["text"] = _text(request["text"])
    if reasoning := request.get("reasoning"):
        summary = reasoning.get("summary") or reasoning.get("generate_summary")
        extras = {k: v for k, v in reasoning.items() if k != "generate_summary"}
        response["reasoning"] = {"effort": None, **extras, "summary": summary}
    if conversation := request.get("conversation"):
        response["conversation"] = {"id": conversation}
    return response


def snapshot(response: Response, **changes: Any) -> Response:
    """A copy an event may own: later changes of status, output and usage do not reach it."""
    return {**response, **changes}


def usage(*rounds: dict[str, Any]) -> dict[str, Any]:
    """Chat usages, one per upstream call, summed in the Responses form with all keys (wire §5.4)."""
    totals = [_figures(chat) for chat in rounds]
    if len(totals) == 1:
        return _expand(totals[0])
    return _expand([sum(column) for column in zip(*totals, strict=True)] if totals else [0] * len(_USAGE))


def moved(chat: dict[str, Any], told: Tokens) -> dict[str, Any]:
    """A chat usage of a call that went on with a text: what was told of the answer before is output, and no input."""
    prompt, completion = chat.get("prompt_tokens_details"), chat.get("completion_tokens_details")
    taken = max(0, _int(chat, "prompt_tokens") - told.whole)
    out = {**chat, "prompt_tokens": taken, "completion_tokens": _int(chat, "completion_tokens") + told.whole}
    out["total_tokens"] = out["prompt_tokens"] + out["completion_tokens"]
    if isinstance(prompt, dict) and "cached_tokens" in prompt:
        out["prompt_tokens_details"] = {**prompt, "cached_tokens": min(_int(prompt, "cached_tokens"), taken)}
    if isinstance(completion, dict) and "reasoning_tokens" in completion:
        out["completion_tokens_details"] = {**completion, "reasoning_tokens": told.thought}
    return out


def shorten(response: Response) -> dict[str, Any]:
    """What the store must keep of a response beside id, times, status, model and items: all that is no default."""
    body = {
        key: value
        for key, value in response.items()
        if key not in _APART and not ((default := _DEFAULTS.get(key, _NONE)) == value and type(default) is type(value))
    }
    if body.get("usage"):
        body["usage"] = _compact(body["usage"])
    return body


def restore(
    body: dict[str, Any],
    *,
    id: str,
    created_at: int,
    status: str,
    model: str,
    output: Iterable[Item],
    conversation: str | None,
) -> Response:
    """The response that ``shorten`` was given."""
    response: Response = {
        "id": id,
        "object": "response",
        "created_at": created_at,
        "status": status,
        "model": model,
        "output": [public(item) for item in output],
        **_DEFAULTS,
        **body,
    }
    if body.get("usage"):
        response["usage"] = _expand(body["usage"])
    if conversation:
        response["conversation"] = {"id": conversation}
    return response


def _text(text: dict[str, Any]) -> dict[str, Any]:
    out = {"format": {"type": "text"}, "verbosity": "medium", **text}
    if out["format"].get("type") == "json_schema":
        out["format"] = {"description": None, "strict": False, **out["format"]}
    return out


def _figures(chat: dict[str, Any]) -> list[int]:
    prompt = chat.get("prompt_tokens_details") or {}
    completion = chat.get("completion_tokens_details") or {}
    taken, given = _int(chat, "prompt_tokens"), _int(chat, "completion_tokens")
    return [
        taken,
        _int(prompt, "cached_tokens") or _int(chat, "prompt_cache_hit_tokens"),
        _int(prompt, "cache_write_tokens"),
        given,
        _int(completion, "reasoning_tokens") or _int(chat, "reasoning_tokens"),
        _int(chat, "total_tokens") or taken + given,
    ]


def _int(source: Any, key: str) -> int:
    value = source.get(key) if isinstance(source, dict) else None
    return int(value) if isinstance(value, int | float) else 0


def _expand(figures: list[int]) -> dict[str, Any]:
    at = dict(zip(_USAGE, figures, strict=True))
    return {
        "input_tokens": at["input_tokens"],
        "input_tokens_details": {
            "cached_tokens": at["cached_tokens"],
            "cache_write_tokens": at["cache_write_tokens"],
        },
        "output_tokens": at["output_tokens"],
        "output_tokens_details": {"reasoning_tokens": at["reasoning_tokens"]},
        "total_tokens": at["total_tokens"],
    }


def _compact(usage: dict[str, Any]) -> list[int]:
    flat = {**usage, **usage["input_tokens_details"], **usage["output_tokens_details"]}
    return [flat[key] for key in _USAGE]
