"""What upstreams do differently, as data. Everything else in ``translate`` asks a ``Dialect``, never a host name.

A dialect is the profile of the upstream's kind, then the operator's options, then what refusals taught (a lesson).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlsplit

from proxy.errors import OVERFLOW, UpstreamError
from proxy.settings import Settings


@dataclass(frozen=True)
class Dialect:
    """How one upstream wants its requests (wire §7, §11, §12).

    ``openai_like``: it is strict about unknown keys, takes ``refusal``, ``file`` parts, ``null`` beside tool calls.
    ``custom_tools``: it takes tools of type ``custom``. ``strict_tools``, ``parallel_tool_calls``: it takes those keys.
    ``named_tools``: it heeds the name in a named choice. ``streamed_tool_logprobs``: it streams log probabilities
    beside tools. ``developer_role``: it knows that role. ``plain_stops``: closing a plain (not streamed) request stops
    the generation, so plain requests may stay plain. ``signed_calls``: it wants the extras of its calls back, also from
    clients that carry the history themselves. ``continues``: it goes on with a message of its own (wire §10.5).
    ``idle_tools``: it wants tools declared also where none may be called, as messages have calls of them.
    ``cache_salt``: it keeps the caches of prompts apart by that key.
    ``reasoning_fields``: the keys earlier thoughts go back under.
    ``left_out``: keys at the top of a body that it refuses.
    """

    kind: str = "generic"
    openai_like: bool = False
    custom_tools: bool = False
    strict_tools: bool = True
    parallel_tool_calls: bool = True
    named_tools: bool = True
    streamed_tool_logprobs: bool = True
    developer_role: bool = False
    plain_stops: bool = False
    signed_calls: bool = False
    continues: bool = False
    idle_tools: bool = False
    cache_salt: bool = False
    max_tokens_field: str = "max_tokens"
    system_messages: str = "merge"
    reasoning_replay: str = "tool_turns"
    reasoning_fields: tuple[str, ...] = ("reasoning_content", "reasoning")
    tool_call_ids: str = "any"
    repair_tool_history: bool = False
    unsupported_tools: str = "auto"
    stream_options: bool = True
    think_tags: bool = False
    vendor_keys: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()

    def trimmed(self, body: dict[str, Any]) -> dict[str, Any]:
        """A chat body without the keys that are left out."""
        return {key: value for key, value in body.items() if key not in self.left_out} if self.left_out else body


_OPENAI = Dialect(
    kind="openai",
    openai_like=True,
    custom_tools=True,
    developer_role=True,
    plain_stops=True,
    max_tokens_field="max_completion_tokens",
    system_messages="keep",
    reasoning_replay="never",
)
PROFILES = {
    dialect.kind: dialect
    for dialect in (
        Dialect(),
        _OPENAI,
        replace(_OPENAI, kind="azure"),
        # reads a thought under either name, and renders it once when both are there
        Dialect(kind="vllm", plain_stops=True, continues=True, cache_salt=True),
        Dialect(kind="sglang", cache_salt=True, reasoning_fields=("reasoning_content",)),
        Dialect(kind="ollama", reasoning_fields=("reasoning",)),
        # reads only this name; runs an abandoned plain request to its end
        Dialect(
            kind="llamacpp",
            continues=True,
            reasoning_fields=("reasoning_content",),
            named_tools=False,
            streamed_tool_logprobs=False,
        ),
        # its thinking models demand the thoughts of the running tool calls back (wire §7.6)
        Dialect(kind="deepseek", reasoning_fields=("reasoning_content",)),
        Dialect(kind="openrouter", reasoning_fields=("reasoning",)),
        # 422 for every key it does not know: its usage comes unasked, and its thoughts have another form
        Dialect(kind="mistral", reasoning_replay="never", tool_call_ids="mistral9", stream_options=False),
        # 400 `Unknown name "reasoning_content": Cannot find field.`; its extras on calls go back as they came (§11.6)
        Dialect(kind="gemini", reasoning_replay="never", signed_calls=True),
    )
}
"""The profile of every kind of upstream (wire §7.2-7.7, §11.1, §11.2, §12)."""

_HOSTS = {
    "openai.com": "openai",
    "azure.com": "azure",
    "azure.us": "azure",
    "deepseek.com": "deepseek",
    "openrouter.ai": "openrouter",
    "mistral.ai": "mistral",
    "generativelanguage.googleapis.com": "gemini",
    "aiplatform.googleapis.com": "gemini",
}


def kind_by_host(base_url: str) -> str | None:
    """The kind of the service that everybody knows by this host, or one below it; None for any other host."""
    host = (urlsplit(base_url).hostname or "").lower()
    if host.endswith("-aiplatform.googleapis.com"):  # Vertex AI has a host for each region
        return "gemini"
    return next((kind for end, kind in _HOSTS.items() if f".{host}".endswith(f".{end}")), None)


def for_kind(kind: str, settings: Settings) -> Dialect:
    """The profile of a kind with the operator's options on top; ``auto`` leaves a field as the kind has it."""
    given = {
        "max_tokens_field": settings.max_tokens_field,
        "system_messages": settings.system_messages,
        "reasoning_replay": settings.reasoning_replay,
        "tool_call_ids": settings.tool_call_ids,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value != "auto"}
    if settings.reasoning_field != "auto":
        both = ("reasoning_content", "reasoning")
        changes["reasoning_fields"] = both if settings.reasoning_field == "both" else (settings.reasoning_field,)
    if not settings.send_stream_options:
        changes["stream_options"] = False
    return replace(
        PROFILES[kind],
        repair_tool_history=settings.repair_tool_history,
        unsupported_tools=settings.unsupported_tools,
        think_tags=settings.parse_think_tags,
        vendor_keys=frozenset(settings.vendor_keys),
        **changes,
    )


# -- lessons

Lesson = dict[str, Any]
"""What refusals taught: fields of a dialect and their values, as JSON."""

_LEARNT = (
    "custom_tools",
    "strict_tools",
    "idle_tools",
    "parallel_tool_calls",
    "developer_role",
    "max_tokens_field",
    "system_messages",
    "reasoning_replay",
    "reasoning_fields",
    "tool_call_ids",
    "stream_options",
    "left_out",
)


def lesson_of(before: Dialect, after: Dialect) -> Lesson:
    """What ``after`` has learnt beyond ``before``."""
    return {
        name: sorted(value) if isinstance(value, frozenset) else list(value) if isinstance(value, tuple) else value
        for name in _LEARNT
        if (value := getattr(after, name)) != getattr(before, name)
    }


def taught(dialect: Dialect, lesson: Lesson) -> Dialect:
    """The dialect with a lesson applied. What another version wrote and this one cannot use is passed over."""
    if not lesson:
        return dialect
    kinds = {field.name: type(getattr(dialect, field.name)) for field in fields(dialect)}
    changes: dict[str, Any] = {}
    for name, value in lesson.items():
        kind = kinds.get(name)
        if name in _LEARNT and kind in (tuple, frozenset) and isinstance(value, list):
            changes[name] = kind(str(entry) for entry in value)
        elif name in _LEARNT and kind in (str, bool) and isinstance(value, kind):
            changes[name] = value
    return replace(dialect, **changes)


# -- remedies

Body = dict[str, Any]
Remedy = Callable[[Dialect], Dialect]
"""One change to a dialect; the same refusal gives the same objects again, so that they can be compared."""


def remedies(error: UpstreamError, dialect: Dialect, body: Body) -> list[Remedy]:
    """The changes that may help a request refused by ``error``, each to be tried alone. ``body``: what was refused.

    A refusal may name several things at once (FastAPI lists all of them), some of which only repeat what the caller
    wrote. What is refused for its size or its value is no quirk.
    """
    if error.code == OVERFLOW:
        return []
    text = f"{error.message} {error.param or ''}".lower()
    named = [cure for statuses, tells, cure in _REMEDIES if error.status in statuses and tells(text, dialect, body)]
    return [cure for cure in dict.fromkeys(named) if cure(dialect) != dialect]


_REFUSAL = (
    r"unsupported|not supported|n't supported|does not support|not permitted|not allowed|not recognized|unrecognized"
    r"|unknown|unexpected|extra_forbidden|extra (?:inputs|fields)|additional propert|cannot find field"
)
_OF_A_VALUE = re.compile("supported values|invalid schema")

_Tells = Callable[[str, Dialect, Body], bool]


def _refused(text: str, name: str) -> bool:
    """Whether a key of this name is refused as such, not its value: the name and the refusal stand close together."""
    key = rf"(?<![\w-]){re.escape(name)}(?![\w-])"
    near = rf"{key}.{{0,60}}?(?:{_REFUSAL})|(?:{_REFUSAL}).{{0,60}}?{key}"
    return not _OF_A_VALUE.search(text) and re.search(near, text, re.DOTALL) is not None


def _is_quoted(text: str, value: Any) -> bool:
    """Whether a refusal quotes the value of what it refuses; pydantic does that for every unknown key too."""
    quoted = isinstance(value, str) and any(f"{mark}{value.lower()}{mark}" in text for mark in "'\"`")
    return quoted and "extra_forbidden" not in text


def _names(*patterns: str) -> _Tells:
    compiled = re.compile("|".join(patterns), re.DOTALL)
    return lambda text, dialect, body: compiled.search(text) is not None


def _refuses(*names: str) -> _Tells:
    return lambda text, dialect, body: any(_refused(text, name) for name in names)


def _refuses_limit(name: str) -> _Tells:
    """``max_tokens`` or ``max_completion_tokens``; the one named first is refused, the other may be advised."""

    def tells(text: str, dialect: Dialect, body: Body) -> bool:
        first = re.search(r"(?<!\w)max_(?:completion_)?tokens(?!\w)", text)
        return first is not None and first[0] == name == dialect.max_tokens_field and _refused(text, name)

    return tells


def _refuses_hint(name: str) -> _Tells:
    return lambda text, dialect, body: _refused(text, name) and not _is_quoted(text, body.get(name))


def _to(**changes: Any) -> Remedy:
    return lambda dialect: replace(dialect, **changes)


def _without_thoughts_as(name: str) -> Remedy:
    return lambda dialect: replace(
        dialect, reasoning_fields=tuple(field for field in dialect.reasoning_fields if field != name)
    )


def _without(name: str) -> Remedy:
    return lambda dialect: replace(dialect, left_out=dialect.left_out | {name})


_HINTS = ("reasoning_effort", "verbosity", "service_tier", "safety_identifier", "prompt_cache_key")
"""Keys that change how an answer is made, not what was asked for: an upstream without them may go without."""

_BAD = frozenset({400, 422})
_BAD_OR_BROKEN = _BAD | {500}  # llama.cpp and LM Studio: what a chat template raises is their own error
_UNASKED_USAGE = _to(stream_options=False)
_REMEDIES: tuple[tuple[frozenset[int], _Tells, Remedy], ...] = (
    # older gateways; Azure with data sources; Mistral (wire §12.1 row 47)
    (_BAD, _refuses("stream_options", "include_usage"), _UNASKED_USAGE),
    # a gateway that asks a model without streams for a whole answer, with the option still there
    (_BAD, _names("stream_options.{0,20} only allowed"), _UNASKED_USAGE),
    # Mistral's API and templates (wire §12.1 row 48)
    (_BAD, _names("with a length of 9"), _to(tool_call_ids="mistral9")),
    # DashScope, DeepSeek, o1-mini; Qwen's template, which names no role
    (
        _BAD_OR_BROKEN,
        _names(r"\bdeveloper\b.{0,120}\b(?:role|system)\b", r"\brole\b.{0,60}\bdeveloper\b", "unexpected message role"),
        _to(developer_role=False),
    ),
    # the templates of Qwen, Llama, Gemma, Mistral; Mistral's API (wire §12.1 row 37)
    (
        _BAD_OR_BROKEN,
        _names(
            "system message must be (?:at the beginning|the first)",
            "conversation roles must alternate",
            "unexpected role 'system'",
        ),
        _to(system_messages="merge"),
    ),
    # DeepSeek's thinking models (wire §12.1 row 38)
    (
        _BAD,
        _names("reasoning_content.{0,60}must be passed back"),
        _to(reasoning_replay="always", reasoning_fields=("reasoning_content",)),
    ),
    # Groq, Cerebras, Mistral, Gemini: thoughts go back under the other name, or not at all
    *((_BAD, _refuses(name), _without_thoughts_as(name)) for name in ("reasoning_content", "reasoning")),
    (_BAD, _refuses_limit("max_tokens"), _to(max_tokens_field="max_completion_tokens")),
    (_BAD, _refuses_limit("max_completion_tokens"), _to(max_tokens_field="max_tokens")),
    (_BAD, _refuses("parallel_tool_calls"), _to(parallel_tool_calls=False)),
    (_BAD, _refuses("strict"), _to(strict_tools=False)),
    # LiteLLM before Anthropic's models, and gateways before Bedrock
    (
        _BAD,
        _names(
            "without `?tools=?`? param",
            "tools=?`? param to be passed when",
            r"toolconfig\b.{0,20} must be (?:defined|set)",
        ),
        _to(idle_tools=True),
    ),
    # OpenAI's older models, and gateways before them: custom tools are emulated by functions (wire §7.7)
    (
        _BAD,
        _names(
            "'custom'.{0,60}'function'",
            "'function'.{0,20}(?:is a required property|not found)",
            r"tools\W{0,3}\d+\W{0,3}type\b.{0,60}'function'",
            r"tools\W{0,3}\d+\W{0,3}function\W{1,3}field required",
            rf"\bcustom tools?\b.{{0,40}}(?:{_REFUSAL})",
        ),
        _to(custom_tools=False),
    ),
    *((_BAD, _refuses_hint(name), _without(name)) for name in _HINTS),
)
