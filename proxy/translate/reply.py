"""Reading a chat reply: one look per field, whatever its spelling upstream (wire §8, §11.5)."""

from __future__ import annotations

from itertools import groupby
from typing import Any

Item = dict[str, Any]

INCOMPLETE = {
    "length": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "model_length": "max_output_tokens",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "recitation": "content_filter",
}
"""Finish reasons of an answer that was cut off, as the reason of an incomplete response (wire §8.3)."""

CONTENT, THOUGHTS = ("content",), ("reasoning_content", "reasoning", "thinking")
"""How text and thoughts are spelled in a delta."""

FAILED = ("error", "abort", "insufficient_system_resource")
"""Finish reasons that are failures."""


def first_choice(chunk: dict[str, Any]) -> dict[str, Any] | None:
    """The choice with index 0 or none; no other is ever asked for."""
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        return None
    for choice in choices:
        if isinstance(choice, dict) and not choice.get("index"):
            return choice
    return None


def delta_of(choice: dict[str, Any], *, fresh: bool) -> dict[str, Any]:
    """What the choice adds. Some servers repeat the whole ``message`` in the last chunk: used only when ``fresh``."""
    delta = choice.get("delta")
    if not delta and fresh:
        delta = choice.get("message")
    return delta if isinstance(delta, dict) else {}


def is_error(chunk: dict[str, Any]) -> bool:
    """Whether a payload is an error in the place of a chunk (wire §11.5)."""
    return bool(chunk.get("error")) or chunk.get("object") == "error"


def only_piece(chunk: dict[str, Any], spelled: tuple[str, ...], model: str | None, tier: str | None) -> str:
    """The text of a chunk that brings a delta of one field, spelled in one of these ways, and says nothing else than
    its model and tier, which are these; "" of any other chunk.
    """
    get = chunk.get
    if get("model") != model or get("service_tier") != tier or get("usage") or get("error") or get("object") == "error":
        return ""
    choices = get("choices")
    if type(choices) is not list or not choices or type(choice := choices[0]) is not dict:
        return ""
    if choice.get("index") or choice.get("finish_reason") is not None or type(delta := choice.get("delta")) is not dict:
        return ""
    piece = ""
    for key, value in delta.items():
        if value is None or key == "role":
            continue
        if piece or key not in spelled or type(value) is not str:
            return ""
        piece = value
    return piece


def thoughts_of(delta: dict[str, Any]) -> list[tuple[str, int | None]]:
    """(thought, its number if the upstream counts them); the first non-empty spelling, as some send two (§8.4)."""
    for key in THOUGHTS:
        text = delta.get(key)
        if text and isinstance(text, str):
            return [(text, None)]
    if not delta.get("reasoning_details"):
        return []
    details = groupby(_entries(delta["reasoning_details"]), lambda entry: _integer(entry.get("index")))
    return [
        ("".join(_string(entry.get("text")) or _string(entry.get("summary")) for entry in entries), number)
        for number, entries in details
    ]


def text_of(delta: dict[str, Any]) -> tuple[str, str]:
    """(text, thought) of ``content``: a string, or Mistral's list of parts (wire §8.2); else an audio transcript."""
    content = delta.get("content")
    if isinstance(content, str) and content:
        return content, ""
    if isinstance(content, list):
        text = "".join(_part_text(part, "text", "text") for part in content)
        return text, "".join(_part_text(part, "thinking", "thinking") for part in content)
    audio = delta.get("audio")
    return (_string(audio.get("transcript")) if isinstance(audio, dict) else ""), ""


def refusal_of(delta: dict[str, Any]) -> str:
    return _string(delta.get("refusal"))


def calls_of(delta: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of ``tool_calls``; the legacy ``function_call`` as one of them."""
    entries = _entries(delta.get("tool_calls"))
    if isinstance(legacy := delta.get("function_call"), dict):
        entries.append({"index": -1, "function": legacy})
    return entries


def annotations_of(delta: dict[str, Any]) -> list[Item]:
    """Url citations, flattened to the Responses form (wire §6.4)."""
    given = delta.get("annotations")
    if not given:
        return []
    return [
        {
            "type": "url_citation",
            "url": _string(citation.get("url")),
            "title": _string(citation.get("title")),
            "start_index": _integer(citation.get("start_index")) or 0,
            "end_index": _integer(citation.get("end_index")) or 0,
        }
        for citation in (entry.get("url_citation") for entry in _entries(given))
        if isinstance(citation, dict)
    ]


def logprobs_of(logprobs: Any) -> list[Item]:
    """Log probabilities of the chunk's tokens in the item form (wire §6.5)."""
    entries = _entries(logprobs.get("content")) if isinstance(logprobs, dict) else []
    return [
        {**_token(entry), "top_logprobs": list(map(_token, _entries(entry.get("top_logprobs"))))} for entry in entries
    ]


def of_text(entries: list[Item], text: str) -> list[Item]:
    """The entries that are the text's; a plain answer's also count its thought and the stop token in."""
    written = text.encode("utf-8", "surrogatepass")
    for start in range(len(entries)):
        at = 0
        for end in range(start, len(entries)):
            piece = bytes(entries[end]["bytes"])
            if not written.startswith(piece, at):
                break
            at += len(piece)
            if at == len(written):
                return entries[start : end + 1]
    return entries


def _token(entry: dict[str, Any]) -> Item:
    token, logprob, given = _string(entry.get("token")), entry.get("logprob"), entry.get("bytes")
    whole = isinstance(given, list) and all(type(byte) is int for byte in given)
    as_bytes = given if whole else list(token.encode("utf-8", "surrogatepass"))
    return {"token": token, "logprob": logprob if type(logprob) in (int, float) else 0.0, "bytes": as_bytes}


def _part_text(part: Any, type_: str, key: str) -> str:
    if isinstance(part, str):
        return part if type_ == "text" else ""
    if not isinstance(part, dict) or part.get("type") != type_:
        return ""
    value = part.get(key)
    if isinstance(value, list):
        return "".join(_part_text(inner, "text", "text") for inner in value)
    return _string(value)


def _entries(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _integer(value: Any) -> int | None:
    return value if type(value) is int else None  # a boolean is none
