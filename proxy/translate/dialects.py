"""What upstreams do differently, as data. Everything else in ``translate`` asks a ``Dialect``, never a host name.

A dialect is the profile of the upstream's kind, then the operator's options, then what refusals taught (a lesson).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlsplit

from proxy.errors import UpstreamError
from proxy.settings import Settings


@dataclass(frozen=True)
class Dialect:
    """How one upstream wants its requests (wire §7, §11, §12).

    ``openai_like``: it is strict about unknown keys, takes ``refusal``, ``file`` parts, ``null`` beside tool calls.
    ``custom_tools``: it takes tools of type ``custom``. ``strict_tools``, ``parallel_tool_calls``: it takes those keys.
    ``named_tools``: it heeds the name in a named choice. ``streamed_tool_logprobs``: it streams log probabilities
    beside tools. ``developer_role``: it knows that role. ``plain_stops``: closing a plain (not streamed) request stops
    the generation, so plain requests may stay plain. ``reasoning_fields``: the keys earlier thoughts go back under.
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
        Dialect(kind="vllm", plain_stops=True),
        Dialect(kind="sglang", reasoning_fields=("reasoning_content",)),
        Dialect(kind="ollama", reasoning_fields=("reasoning",)),
        # reads only this name; runs an abandoned plain request to its end
        Dialect(
            kind="llamacpp",
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
        Dialect(kind="gemini", reasoning_replay="never"),
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


def for_upstream(base_url: str, settings: Settings) -> Dialect:
    """The dialect of the server at ``base_url`` as far as option and host tell, without asking it."""
    kind = kind_by_host(base_url) if settings.upstream_kind == "auto" else settings.upstream_kind
    return for_kind(kind or "generic", settings)


# -- lessons

Lesson = dict[str, Any]
"""What refusals taught: fields of a dialect and their values, as JSON."""

_LEARNT = (
    "custom_tools",
    "strict_tools",
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


def remedy(error: UpstreamError, dialect: Dialect) -> Dialect | None:
    """The dialect with which a request refused by ``error`` is worth one more try; None when nothing would help.

    A refusal may name several things at once (FastAPI lists all of them): every one is cured.
    """
    text = f"{error.message} {error.param or ''}".lower()
    cured = dialect
    for statuses, tells, cure in _REMEDIES:
        if error.status in statuses and tells(text, cured):
            cured = cure(text, cured)
    return cured if cured != dialect else None


_REFUSAL = (
    r"unsupported|not supported|n't supported|does not support|not permitted|not allowed|not recognized|unrecognized"
    r"|unknown|unexpected|extra_forbidden|extra (?:inputs|fields)|additional propert|cannot find field"
)


def _refused(text: str, name: str) -> bool:
    """Whether a key of this name is refused as such, not its value: the name and the refusal stand close together."""
    key = rf"(?<![\w-]){re.escape(name)}(?![\w-])"
    near = rf"{key}.{{0,60}}?(?:{_REFUSAL})|(?:{_REFUSAL}).{{0,60}}?{key}"
    return "supported values" not in text and re.search(near, text, re.DOTALL) is not None


def _names(*patterns: str) -> Callable[[str, Dialect], bool]:
    compiled = re.compile("|".join(patterns), re.DOTALL)
    return lambda text, dialect: compiled.search(text) is not None


def _refuses(name: str) -> Callable[[str, Dialect], bool]:
    return lambda text, dialect: _refused(text, name)


def _to(**changes: Any) -> Callable[[str, Dialect], Dialect]:
    return lambda text, dialect: replace(dialect, **changes)


def _refuses_limit(text: str, dialect: Dialect) -> bool:
    """``max_tokens`` or ``max_completion_tokens``; the one named first is refused, the other may be advised."""
    first = re.search(r"(?<!\w)max_(?:completion_)?tokens(?!\w)", text)
    return first is not None and first[0] == dialect.max_tokens_field and _refused(text, first[0])


def _other_limit(text: str, dialect: Dialect) -> Dialect:
    other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
    return replace(dialect, max_tokens_field=other[dialect.max_tokens_field])


def _refuses_reasoning(text: str, dialect: Dialect) -> bool:
    return any(_refused(text, name) for name in dialect.reasoning_fields)


def _without_reasoning(text: str, dialect: Dialect) -> Dialect:
    kept = tuple(name for name in dialect.reasoning_fields if not _refused(text, name))
    return replace(dialect, reasoning_fields=kept)


_HINTS = ("reasoning_effort", "verbosity", "service_tier", "safety_identifier", "prompt_cache_key")
"""Keys that change how an answer is made, not what was asked for: an upstream without them may go without."""


def _refuses_hint(text: str, dialect: Dialect) -> bool:
    return any(_refused(text, name) for name in _HINTS)


def _without_hints(text: str, dialect: Dialect) -> Dialect:
    return replace(dialect, left_out=dialect.left_out | {name for name in _HINTS if _refused(text, name)})


_BAD = frozenset({400, 422})
_BAD_OR_BROKEN = _BAD | {500}  # llama.cpp and LM Studio: what a chat template raises is their own error
_REMEDIES: tuple[
    tuple[frozenset[int], Callable[[str, Dialect], bool], Callable[[str, Dialect], Dialect]],
    ...,
] = (
    # older gateways; Azure with data sources; Mistral (wire §12.1 row 47)
    (_BAD, _names("stream_options", "include_usage"), _to(stream_options=False)),
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
    (_BAD, _refuses_reasoning, _without_reasoning),
    (_BAD, _refuses_limit, _other_limit),
    (_BAD, _refuses("parallel_tool_calls"), _to(parallel_tool_calls=False)),
    (_BAD, _refuses("strict"), _to(strict_tools=False)),
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
    (_BAD, _refuses_hint, _without_hints),
)
