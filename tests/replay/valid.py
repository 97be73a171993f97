"""``strict`` for thousands of streams: an event that differs only in free values from one that was valid is not asked
again."""

from __future__ import annotations

from typing import Any

from tests.live import strict

FREE = {
    *("id", "item_id", "call_id", "model", "name", "delta", "text", "arguments", "token", "logprob", "message"),
    *("created_at", "completed_at", "sequence_number", "output_index", "content_index"),
    *("input_tokens", "output_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"),
}
"""Keys whose values no description restricts beyond their type."""

_valid: set[str] = set()


def stream(events: list[dict[str, Any]]) -> dict[str, Any]:
    """A whole stream; gives the response of its terminal event."""
    for event in events:
        known = repr(_form(event))
        if known not in _valid:
            strict.event(event)
            _valid.add(known)
    return strict.grammar(events)


def response(value: dict[str, Any]) -> dict[str, Any]:
    """A Response object."""
    known = repr(_form(value))
    if known not in _valid:
        strict.response(value)
        _valid.add(known)
    return value


def _form(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _form(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return sorted({repr(_form(inner, key)) for inner in value}) if key != "output" else [*map(_form, value)]
    return type(value) if key in FREE or isinstance(value, int) and key == "bytes" else value
