"""What upstreams do differently, as data. Everything else in ``translate`` asks a ``Dialect``, never a host name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from proxy.errors import UpstreamError
from proxy.settings import Settings

_OPENAI_HOSTS = (".openai.com", ".azure.com", ".azure.us")


@dataclass(frozen=True)
class Dialect:
    """How one upstream wants its requests (wire §7, §11, §12).

    ``openai_like``: it is strict about unknown keys, takes ``developer``, ``refusal``, ``file`` parts.
    ``custom_tools``: it takes tools of type ``custom``. ``strict_tools``, ``parallel_tool_calls``: it takes those keys.
    ``developer_role``: it knows that role. ``plain_stops``: closing a plain (not streamed) request stops the generation, so plain requests may stay plain.
    """

    kind: str = "generic"
    openai_like: bool = False
    custom_tools: bool = False
    strict_tools: bool = True
    parallel_tool_calls: bool = True
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
    vendor_keys: frozenset[str] = field(default_factory=frozenset)


def for_upstream(base_url: str, settings: Settings) -> Dialect:
    """The dialect of the server at ``base_url``: its kind by option or host, then the options that override a field."""
    host = (urlsplit(base_url).hostname or "").lower()
    openai = settings.upstream_kind == "openai" or (
        settings.upstream_kind == "auto" and f".{host}".endswith(_OPENAI_HOSTS)
    )
    tokens = settings.max_tokens_field
    return Dialect(
        kind="openai" if openai else "generic",
        openai_like=openai,
        custom_tools=openai,
        developer_role=openai,
        plain_stops=openai,
        max_tokens_field=tokens if tokens != "auto" else ("max_completion_tokens" if openai else "max_tokens"),
        system_messages=settings.system_messages,
        reasoning_replay="never" if openai else settings.reasoning_replay,
        reasoning_fields=_reasoning_fields(settings.reasoning_field),
        tool_call_ids=settings.tool_call_ids,
        repair_tool_history=settings.repair_tool_history,
        unsupported_tools=settings.unsupported_tools,
        stream_options=settings.send_stream_options,
        think_tags=settings.parse_think_tags,
        vendor_keys=frozenset(settings.vendor_keys),
    )


def remedy(error: UpstreamError, dialect: Dialect) -> Dialect | None:
    """The dialect with which a request refused by ``error`` is worth one more try; None when nothing would help."""
    if error.status not in (400, 422):
        return None
    text = f"{error.message} {error.param or ''}".lower()
    for tells, cure in _REMEDIES:
        cured = cure(dialect)
        if cured != dialect and any(words in text for words in tells):
            return cured
    return None


def _reasoning_fields(option: str) -> tuple[str, ...]:
    return ("reasoning_content", "reasoning") if option in ("auto", "both") else (option,)


_Cure = Callable[[Dialect], Dialect]
_REMEDIES: tuple[tuple[tuple[str, ...], _Cure], ...] = (
    # older gateways; Azure with data sources (wire §12.1 row 47)
    (("stream_options", "include_usage"), lambda d: replace(d, stream_options=False)),
    # Mistral's API and templates (wire §12.1 row 48)
    (("must be a-z, a-z, 0-9, with a length of 9", "length of 9"), lambda d: replace(d, tool_call_ids="mistral9")),
)
