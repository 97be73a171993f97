"""What spans say of calls of a model, by OpenTelemetry's conventions for generative AI (semantic-conventions-genai,
as of 1.41: in development). Pure: bodies and chunks in, attributes out.
"""

from __future__ import annotations

import re
from typing import Any, TypeGuard

from proxy import codec
from proxy.chunks import Texts

Attributes = dict[str, Any]

_PROVIDERS = {
    "azure": "azure.ai.openai",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
}
"""The conventions' names of kinds that have another one there; any other kind stands for itself."""

_MODEL = re.compile(rb'\{"model":"((?:[^"\\]|\\.)*)"')  # as our bodies begin
_READ = 1024 * 1024  # bytes of a body that is read for its parameters
_PARAMETERS = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
_MOST_NAME = 256  # characters of what is no content, a model's name or a path
_MOST_STOPS = 16


def provider(kind: str) -> str:
    """What the conventions call an upstream of this kind."""
    return _PROVIDERS.get(kind, kind)


def model(body: bytes) -> str:
    """The model that a chat body of ours names first; "" for a body that names none there."""
    found = _MODEL.match(body)
    return short(codec.loads(b'"' + found[1] + b'"')) if found else ""


def asked(body: bytes, *, content: bool) -> Attributes:
    """What else a chat body asks for; nothing of a long one. ``content``: its messages too, however long."""
    if not content and len(body) > _READ:
        return {}
    given = codec.loads(body)
    out: Attributes = {}
    for name in _PARAMETERS:
        if isinstance(value := given.get(name), (int, float)) and not isinstance(value, bool):
            out[f"gen_ai.request.{name}"] = float(value)
    if _fits(seed := given.get("seed")):
        out["gen_ai.request.seed"] = seed
    if _fits(limit := given.get("max_tokens", given.get("max_completion_tokens"))):
        out["gen_ai.request.max_tokens"] = limit
    if stops := [short(stop) for stop in _listed(given.get("stop"))[:_MOST_STOPS] if isinstance(stop, str)]:
        out["gen_ai.request.stop_sequences"] = stops
    if "response_format" in given:
        out["gen_ai.output.type"] = "json"
    if content:
        out["gen_ai.input.messages"] = written([_message(message) for message in given.get("messages", ())])
    return out


def short(value: object) -> str:
    """What a stranger has written that is no content, no longer than a span should hold."""
    return text(str(value)[:_MOST_NAME])


def text(value: str) -> str:
    """As an exporter takes it: without lone surrogates."""
    return value.encode(errors="replace").decode()


def _fits(value: object) -> TypeGuard[int]:
    """Whether this is a number that an exporter takes as one."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def written(value: Any) -> str:
    """Structured content as an attribute, which is a text."""
    return codec.dumps(value).decode(errors="replace")


class Answered:
    """What the chunks of an answer say of it. ``keeps``: also what was answered."""

    def __init__(self, *, keeps: bool) -> None:
        self._keeps = keeps
        self._attributes: Attributes = {}
        self._reasons: dict[int, str] = {}
        self._texts: dict[str, list[str]] = {"content": [], "reasoning": []}
        self._calls: dict[int, dict[str, Any]] = {}

    def take(self, batch: list[Any]) -> None:
        """Chunks in their order, whatever an upstream has put into them."""
        for chunk in batch:
            if isinstance(chunk, Texts):
                if self._keeps:
                    kind = "content" if chunk.field == "content" else "reasoning"
                    self._texts[kind] += chunk
            elif isinstance(chunk, dict):
                self._chunk(chunk)

    def attributes(self) -> Attributes:
        """All of it."""
        out = dict(self._attributes)
        if self._reasons:
            out["gen_ai.response.finish_reasons"] = [self._reasons[at] for at in sorted(self._reasons)]
        if self._keeps and (parts := self._parts()):
            reason = self._reasons.get(0, "error")
            message = {"role": "assistant", "parts": parts, "finish_reason": _REASONS.get(reason, reason)}
            out["gen_ai.output.messages"] = written([message])
        return out

    def _chunk(self, chunk: dict[str, Any]) -> None:
        for name in ("id", "model"):
            if isinstance(value := chunk.get(name), str) and value:
                self._attributes.setdefault(f"gen_ai.response.{name}", short(value))
        if isinstance(usage := chunk.get("usage"), dict):
            self._attributes |= _usage(usage)
        for choice in _listed(chunk.get("choices")):
            if not isinstance(choice, dict):
                continue
            if isinstance(reason := choice.get("finish_reason"), str) and isinstance(choice.get("index", 0), int):
                self._reasons[choice.get("index", 0)] = short(reason)
            if self._keeps and isinstance(delta := choice.get("delta") or choice.get("message"), dict):
                self._delta(delta)

    def _delta(self, delta: dict[str, Any]) -> None:
        for field in ("content", "reasoning_content", "reasoning"):
            if isinstance(text := delta.get(field), str) and text:
                self._texts["content" if field == "content" else "reasoning"].append(text)
        for at, call in enumerate(_listed(delta.get("tool_calls"))):
            if isinstance(call, dict) and isinstance(called := _called(call), dict):
                index = call.get("index", at)
                index = index if isinstance(index, int) else at
                kept = self._calls.setdefault(index, {"type": "tool_call", "id": "", "name": "", "arguments": ""})
                kept["id"] = kept["id"] or str(call.get("id") or "")
                kept["name"] = kept["name"] or str(called.get("name") or "")
                kept["arguments"] += str(called.get("arguments") or called.get("input") or "")

    def _parts(self) -> list[dict[str, Any]]:
        said = {kind: "".join(texts) for kind, texts in self._texts.items()}
        reasoning = [{"type": "reasoning", "content": said["reasoning"]}] if said["reasoning"] else []
        text = [{"type": "text", "content": said["content"]}] if said["content"] else []
        return [*reasoning, *text, *self._calls.values()]


_REASONS = {"tool_calls": "tool_call", "function_call": "tool_call"}
"""Reasons that a message of the conventions calls by another name."""


def _usage(usage: dict[str, Any]) -> Attributes:
    input_, output = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    found = {
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
        "gen_ai.usage.cache_read.input_tokens": input_.get("cached_tokens") if isinstance(input_, dict) else None,
        "gen_ai.usage.reasoning.output_tokens": output.get("reasoning_tokens") if isinstance(output, dict) else None,
    }
    return {name: value for name, value in found.items() if _fits(value) and value >= 0}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """A chat message in the conventions' form."""
    role, content = message["role"], message.get("content")
    if role == "tool":
        parts = [{"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}]
        return {"role": role, "parts": parts}
    said = [{"type": "text", "text": content}] if isinstance(content, str) else _listed(content)
    parts = [_part(part) for part in said]
    if isinstance(reasoning := message.get("reasoning_content") or message.get("reasoning"), str):
        parts.insert(0, {"type": "reasoning", "content": reasoning})
    for call in message.get("tool_calls") or ():
        called = _called(call) or {}
        arguments = called.get("arguments", called.get("input"))
        parts.append({"type": "tool_call", "id": call.get("id"), "name": called.get("name"), "arguments": arguments})
    return {"role": role, "parts": parts}


def _called(call: dict[str, Any]) -> Any:
    """What a call names: a function, or a custom tool, which has an input instead of arguments."""
    return call.get("function") or call.get("custom")


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") == "text":
        return {"type": "text", "content": part.get("text")}
    if part.get("type") == "image_url":
        url = (part.get("image_url") or {}).get("url", "")
        kind, _, data = str(url).partition(";base64,")
        if data:
            return {"type": "blob", "modality": "image", "mime_type": kind.removeprefix("data:"), "content": data}
        return {"type": "uri", "modality": "image", "uri": url}
    return part
