"""Reading a chat reply: one look per field, whatever its spelling upstream (wire §8, §11.5)."""

from __future__ import annotations

from typing import Any

Item = dict[str, Any]


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
    if delta is None and fresh:
        delta = choice.get("message")
    return delta if isinstance(delta, dict) else {}


def reasoning_of(delta: dict[str, Any]) -> tuple[str, int | None]:
    """(thought, its number if the upstream counts them); the first non-empty spelling, as some send two (§8.4)."""
    for key in ("reasoning_content", "reasoning", "thinking"):
        text = delta.get(key)
        if text and isinstance(text, str):
            return text, None
    details = delta.get("reasoning_details")
    if not isinstance(details, list):
        return "", None
    entries = [entry for entry in details if isinstance(entry, dict)]
    text = "".join(entry.get("text") or entry.get("summary") or "" for entry in entries)
    number = entries[0].get("index") if entries else None
    return text, number if isinstance(number, int) else None


def text_of(delta: dict[str, Any]) -> tuple[str, str]:
    """(text, thought) of ``content``: a string, or Mistral's list of parts (wire §8.2); else an audio transcript."""
    content = delta.get("content")
    if isinstance(content, str) and content:
        return content, ""
    if isinstance(content, list):
        text = "".join(_part_text(part, "text", "text") for part in content)
        return text, "".join(_part_text(part, "thinking", "thinking") for part in content)
    audio = delta.get("audio")
    transcript = audio.get("transcript") if isinstance(audio, dict) else None
    return (transcript if isinstance(transcript, str) else ""), ""


def refusal_of(delta: dict[str, Any]) -> str:
    refusal = delta.get("refusal")
    return refusal if isinstance(refusal, str) else ""


def calls_of(delta: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of ``tool_calls``; the legacy ``function_call`` as one of them."""
    calls = delta.get("tool_calls")
    entries = [entry for entry in calls if isinstance(entry, dict)] if isinstance(calls, list) else []
    if isinstance(legacy := delta.get("function_call"), dict):
        entries.append({"index": -1, "function": legacy})
    return entries


def annotations_of(delta: dict[str, Any]) -> list[Item]:
    """Url citations, flattened to the Responses form (wire §6.4)."""
    given = delta.get("annotations")
    if not isinstance(given, list):
        return []
    cited = [a["url_citation"] for a in given if isinstance(a, dict) and isinstance(a.get("url_citation"), dict)]
    return [
        {
            "type": "url_citation",
            "url": citation.get("url") or "",
            "title": citation.get("title") or "",
            "start_index": citation.get("start_index") or 0,
            "end_index": citation.get("end_index") or 0,
        }
        for citation in cited
    ]


def logprobs_of(logprobs: Any) -> list[Item]:
    """Log probabilities of the chunk's tokens in the item form (wire §6.5)."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return []
    return [
        {**_token(entry), "top_logprobs": [_token(top) for top in entry.get("top_logprobs") or []]}
        for entry in content
        if isinstance(entry, dict)
    ]


def _token(entry: dict[str, Any]) -> Item:
    token = entry.get("token") or ""
    given = entry.get("bytes")
    as_bytes = given if isinstance(given, list) else list(token.encode("utf-8", "surrogatepass"))
    return {"token": token, "logprob": entry.get("logprob", 0.0), "bytes": as_bytes}


def _part_text(part: Any, type_: str, key: str) -> str:
    if isinstance(part, str):
        return part if type_ == "text" else ""
    if not isinstance(part, dict) or part.get("type") != type_:
        return ""
    value = part.get(key)
    if isinstance(value, list):
        return "".join(_part_text(inner, "text", "text") for inner in value)
    return value if isinstance(value, str) else ""
