"""A Responses request and its context in, a chat-completions body out (wire §4, §7, §11.1)."""

from __future__ import annotations

from typing import Any

from proxy.translate.dialects import Dialect
from proxy.translate.input import to_messages
from proxy.translate.tools import ToolPlan

Item = dict[str, Any]

_SAME = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "user")
_OPENAI_ONLY = ("service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
_LOGPROBS = "message.output_text.logprobs"


def to_chat(
    request: dict[str, Any],
    context: list[Item],
    plan: ToolPlan,
    dialect: Dialect,
    *,
    stream: bool,
    repaired: list[str] | None = None,
) -> dict[str, Any]:
    """The upstream body for ``context`` (oldest item first, this request's input included). Pure: same in, same out.

    ``repaired``: takes the ids of calls that had to be given an output, or moved to where theirs is.

    Optional keys are sent only when the client gave them, since local servers have defaults of their own (wire §4.4).
    Raises InvalidRequest as ``to_messages`` does.
    """
    messages = to_messages(request.get("instructions"), context, dialect, repaired)
    body: dict[str, Any] = {"model": request["model"], "messages": messages, "stream": stream}
    if stream and dialect.stream_options:
        body["stream_options"] = {"include_usage": True}
    body |= {key: request[key] for key in _SAME if key in request}
    if dialect.openai_like:
        body |= {key: request[key] for key in _OPENAI_ONLY if key in request}
    if (limit := request.get("max_output_tokens")) is not None:
        body[dialect.max_tokens_field] = limit
    body |= _tools(request, plan, dialect)
    body |= _text(request.get("text") or {})
    if effort := (request.get("reasoning") or {}).get("effort"):
        body["reasoning_effort"] = effort
    body |= _logprobs(request)
    return body | {key: request[key] for key in request.keys() & dialect.vendor_keys if key not in body}


def _tools(request: dict[str, Any], plan: ToolPlan, dialect: Dialect) -> dict[str, Any]:
    """Backends refuse an empty list, and a choice or ``parallel_tool_calls`` without tools."""
    if not plan.tools:
        return {}
    out: dict[str, Any] = {"tools": plan.tools}
    if plan.choice is not None:
        out["tool_choice"] = plan.choice
    if "parallel_tool_calls" in request and dialect.parallel_tool_calls:
        out["parallel_tool_calls"] = request["parallel_tool_calls"]
    return out


def _text(text: dict[str, Any]) -> dict[str, Any]:
    """``text.format`` is flat here and nested upstream (wire §4.2)."""
    out: dict[str, Any] = {}
    format_ = text.get("format") or {}
    if format_.get("type") == "json_object":
        out["response_format"] = {"type": "json_object"}
    elif format_.get("type") == "json_schema":
        schema = {k: format_[k] for k in ("name", "schema", "strict", "description") if format_.get(k) is not None}
        out["response_format"] = {"type": "json_schema", "json_schema": schema}
    if text.get("verbosity"):
        out["verbosity"] = text["verbosity"]
    return out


def wants_logprobs(request: dict[str, Any]) -> bool:
    """Whether log probabilities were asked for, in one way or the other (wire §4.1)."""
    return bool(request.get("top_logprobs")) or _LOGPROBS in (request.get("include") or ())


def can_stream(request: dict[str, Any], plan: ToolPlan, dialect: Dialect) -> bool:
    """Whether the upstream can stream the answer: llama.cpp refuses log probabilities beside tools in a stream."""
    return dialect.streamed_tool_logprobs or not (plan.tools and wants_logprobs(request))


def _logprobs(request: dict[str, Any]) -> dict[str, Any]:
    if not wants_logprobs(request):
        return {}
    top = request.get("top_logprobs") or 0
    return {"logprobs": True, "top_logprobs": top} if top else {"logprobs": True}
