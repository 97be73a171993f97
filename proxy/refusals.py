"""What an upstream says when it refuses or fails, as an error of ours (wire §2.5)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from proxy.errors import OVERFLOW, UpstreamError

_OVERFLOW = (
    "context length",
    "context size",
    "context window",
    "exceeds the context",
    "exceeds the maximum number of tokens allowed",  # Gemini
    "prompt is too long",  # Anthropic, behind gateways
)
_CALLERS_FAULT = "image input is not supported"
"""What llama.cpp answers 500 to, although sending it again, as SDKs then do, changes nothing."""

_OPENAI_TYPE = re.compile(r"[a-z0-9_]+\Z")
_OVERFLOW_TYPE = "exceed_context_size_error"
_FOREIGN_TYPES = (_OVERFLOW_TYPE, "not_found_error")
_PASSED_ON = ("retry-after", "retry-after-ms", "x-should-retry")


def from_upstream(payload: Any, status: int, headers: Mapping[str, str] | None = None) -> UpstreamError:
    """An upstream's error, whatever its shape, as ours (wire §2.5).

    ``payload``: the decoded JSON body, or the raw text of one that is no JSON. ``status``: the HTTP status; below 400
    (an error inside a 200) the error's own integer ``code`` counts when it is one of 400..599, else 502.
    """
    if isinstance(payload, list) and len(payload) == 1 and isinstance(payload[0], dict):
        payload = payload[0]  # Gemini wraps it so
    error = payload.get("error", payload) if isinstance(payload, dict) else payload
    fields = error if isinstance(error, dict) else {}
    code = fields.get("code")
    if status < 400:
        status = _status_in(code, fields.get("status_code")) or 502
    if not isinstance(code, str) or _status_in(code):
        code = None  # vLLM and llama.cpp put the status there
    message = _message(payload, error)
    if any(text in message.lower() for text in _OVERFLOW) or fields.get("type") == _OVERFLOW_TYPE:
        code = OVERFLOW
    type_ = fields.get("type")
    if status == 500 and _CALLERS_FAULT in message.lower():
        status, type_ = 400, None
    return UpstreamError(
        message or f"The upstream answered {status} without a message.",
        status=status,
        type=_type(type_, status),
        param=fields["param"] if isinstance(fields.get("param"), str) else None,
        code=code,
        headers=passed_on(headers or {}),
    )


def passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of an upstream's answer that go on to the client, of errors and successes alike (wire §1.5).

    Not those that are no printable ASCII: servers refuse to send them, and the answer would be lost for a header.
    """
    lowered = {k.lower(): v for k, v in headers.items() if v.isascii() and v.isprintable()}
    return {k: v for k, v in lowered.items() if k in _PASSED_ON or k.startswith(("x-ratelimit-", "openai-"))}


def _status_in(*candidates: Any) -> int | None:
    for value in candidates:
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, int) and 400 <= value <= 599:
            return value
    return None


def _message(payload: Any, error: Any) -> str:
    candidates: list[Any] = [error.get("message") if isinstance(error, dict) else error]
    if isinstance(payload, dict):
        candidates += [payload.get("message"), _detail(payload.get("detail"))]
    for text in candidates:
        if isinstance(text, dict):
            text = _detail(text.get("detail"))  # Mistral
        if isinstance(text, str) and text.strip():
            return text.strip()[:2000]
    return ""


def _detail(detail: Any) -> str | None:
    if isinstance(detail, list):
        return "; ".join(map(_fault, detail))
    return detail if isinstance(detail, str) else None


def _fault(fault: Any) -> str:
    """One of FastAPI's faults: where it lies and what is wrong."""
    if not isinstance(fault, dict):
        return str(fault)
    place = fault.get("loc")
    return f"{'.'.join(map(str, place)) if isinstance(place, list) else place}: {fault.get('msg', '')}"


def _type(given: Any, status: int) -> str:
    """The error's own type if it is of OpenAI's kind; vLLM and llama.cpp have names that no client knows (§2.2)."""
    if isinstance(given, str) and (status in (401, 403) or _OPENAI_TYPE.match(given)) and given not in _FOREIGN_TYPES:
        return given
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"
