"""Spans of turns, the store and tools, sent on by OpenTelemetry.

What is at work in a task stands in its context, as OpenTelemetry has it, which tasks that it starts inherit. A span of
what is told when it is over, an operation of the store or a tool's call, is made then, with the time that it took.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import unquote, urlsplit

from opentelemetry import context
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    StatusCode,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.re import parse_env_headers

from proxy import __version__
from proxy.errors import StatecarError
from proxy.observe.conventions import Attributes, short, text
from proxy.observe.logs import at_work_in
from proxy.translate.hosted_calls import HostedCall, McpCall
from proxy.translate.hosting import Outcome

log = logging.getLogger("statecar")

LAST_WORDS = 3.0
"""Seconds that spans get to be sent when the process ends."""

_CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_ON_SPANS = ("true", "span_only", "span_and_event")
_UNTOLD = ("run_append", "XREAD", "lease", "quota_hold")
"""Store operations without a span: one for each token of a run, told or read; leases on their way through a turn."""
SOCKET = context.create_key("statecar.websocket")
_KIND = context.create_key("statecar.kind")
_CONVERSATION = context.create_key("statecar.conversation")
_IN_FRAMES = "ws_request_header_"
"""What Codex puts before the names of headers that it sends in a frame's ``client_metadata``."""
_TOOL_TYPES = {"file_search": "datastore"}
_TURN = {
    "response": "gen_ai.response.id",
    "response_status": "statecar.response.status",
    "rounds": "statecar.rounds",
    "tool_calls": "statecar.tool_calls",
    "truncated_items": "statecar.truncated_items",
    "compacted": "statecar.compacted",
    "stateless": "statecar.stateless",
    "save_failed": "statecar.save_failed",
}
"""Facts of a turn, and the attributes that tell them."""

_headers = TraceContextTextMapPropagator()


def open_exporter() -> SpanExporter | None:
    """Where spans go, as OTEL_TRACES_EXPORTER and OTEL_EXPORTER_OTLP_* say; None for nowhere.

    Raises ValueError for one that is not installed, or cannot be made of what it is told.
    """
    _check_headers()
    asked = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if asked == "none":
        return None
    name = asked
    if asked == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        name = {"": "otlp_proto_http", "http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}.get(
            protocol or "", f"otlp with the protocol {protocol}"
        )
    found = list(entry_points(group="opentelemetry_traces_exporter", name=name))
    if not found:
        raise ValueError(f"OTEL_TRACES_EXPORTER={asked}: no exporter {name} is installed; otlp, console and none are.")
    if name == "otlp_proto_http":
        _check_endpoint()
    exporter: SpanExporter = found[0].load()()
    return exporter


def _check_endpoint() -> None:
    """Raises ValueError for an address without a scheme, which gRPC's exporter takes: nothing would ever arrive."""
    for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        if given := os.environ.get(name, "").strip():
            if not given.lower().startswith(("http://", "https://")):
                raise ValueError(f"{name}: must begin with http:// or https://, as http://collector:4318")
            return


def _check_headers() -> None:
    """Raises ValueError for headers that OpenTelemetry leaves out, and shows in the log: they hold keys."""
    logging.getLogger(parse_env_headers.__module__).disabled = True
    for name in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
        for pair in filter(None, map(str.strip, os.environ.get(name, "").split(","))):
            if not parse_env_headers(pair, liberal=True):
                raise ValueError(f"{name}: must be NAME=VALUE, with commas between several, and URL-encoded")


class Spans:
    """Makes spans, and hands them to ``exporter`` in a thread of its own: a request never waits for that. What is more
    than its queue holds (OTEL_BSP_MAX_QUEUE_SIZE) is dropped. ``content``: what is asked and answered is told as well.
    """

    def __init__(self, store: str, exporter: SpanExporter | None) -> None:
        self.content = os.environ.get(_CAPTURE, "").strip().lower() in _ON_SPANS
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        if exporter:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self._provider.get_tracer("statecar", __version__)
        self._store = {"db.system.name": "redis", **place(store)}

    def end(self) -> None:
        """Sends what is left, however long that takes."""
        self._provider.shutdown()

    async def close(self) -> None:
        """Sends what is left, for ``LAST_WORDS`` at most."""
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            self.end()
            with suppress(RuntimeError):  # the loop has ended before
                loop.call_soon_threadsafe(sent.set)

        threading.Thread(target=end, name="traces", daemon=True).start()  # it may take longer than the process has
        try:
            async with asyncio.timeout(LAST_WORDS):
                await sent.wait()
        except TimeoutError:
            log.warning("traces are incomplete: their exporter did not take the last of them within %g s", LAST_WORDS)

    # -- what is at work

    @staticmethod
    def trace_id() -> str:
        """Of the span at work; "" for none."""
        known = get_current_span().get_span_context()
        return format_trace_id(known.trace_id) if known.is_valid else ""

    @staticmethod
    def kind() -> str:
        """What the upstream of the turn at work is known to be; "" where none has been asked for."""
        return str(context.get_value(_KIND) or "")

    @staticmethod
    def conversation() -> Attributes:
        """The conversation of the turn at work, if it has one."""
        named = context.get_value(_CONVERSATION)
        return {"gen_ai.conversation.id": named} if named else {}

    # -- what is told when it is over

    def store(self, heard: Callable[[str, float, bool], object]) -> Callable[[str, float, bool], object]:
        """Hears of every operation of the store, as ``heard`` does."""

        def told(operation: str, seconds: float, ok: bool) -> None:
            heard(operation, seconds, ok)
            if operation in _UNTOLD or not get_current_span().is_recording():
                return
            command = operation if operation.isupper() else "EVALSHA"
            name = {"db.operation.name": command}
            if command != operation:
                name["db.stored_procedure.name"] = operation
            shown = command if command == operation else f"{command} {operation}"
            span = self._over(shown, SpanKind.CLIENT, self._store | name, seconds)
            if not ok:
                failed(span, "StoreUnavailable")
            span.end()

        return told

    def tool(self, heard: Callable[..., object]) -> Callable[..., object]:
        """Hears of every call of a tool that runs here, as ``heard`` does."""

        def told(type_: str, said: str, seconds: float, call: HostedCall, outcome: Outcome | None) -> None:
            heard(type_, said, seconds, call, outcome)
            if not get_current_span().is_recording():
                return
            name = short(call.origin.name) if isinstance(call, McpCall) else type_
            attributes: Attributes = {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": name,
                "gen_ai.tool.call.id": call.item["id"],
                "gen_ai.tool.type": _TOOL_TYPES.get(type_, "extension"),
            }
            if isinstance(call, McpCall):
                attributes["statecar.mcp.server_label"] = short(call.origin.namespace)
            if self.content:
                attributes["gen_ai.tool.call.arguments"] = text(call.arguments)
                if outcome and outcome.output:
                    attributes["gen_ai.tool.call.result"] = text(outcome.output)
            span = self._over(f"execute_tool {name}", SpanKind.INTERNAL, attributes, seconds)
            if said != "completed":
                failed(span, said if outcome is None else "tool_error")
            span.end()

        return told

    def _over(self, name: str, kind: SpanKind, attributes: Attributes, seconds: float) -> Span:
        began = time.time_ns() - int(seconds * 1e9)
        return self.tracer.start_span(name, kind=kind, attributes=attributes, start_time=began)

    # -- turns

    @contextmanager
    def turn(
        self, facts: dict[str, Any], request: Mapping[str, Any], resumed_by: Sequence[tuple[str, str]] | None
    ) -> Iterator[None]:
        """A turn is made in the block, by whichever tasks. ``facts``: what is told of it at its end.

        ``resumed_by``: the headers of the request that began it, where another process did: the turn belongs to that
        one's trace, and is linked to its span.
        """
        before = context.get_current()
        parent, links = _parent_of_turn(before, request, resumed_by)
        attributes: Attributes = {"gen_ai.request.model": short(facts["model"])}
        if conversation := request.get("conversation"):
            attributes["gen_ai.conversation.id"] = conversation
        if request.get("background"):
            attributes["statecar.background"] = True
        if resumed_by is not None:
            attributes["statecar.takeover"] = True
        span = self.tracer.start_span("turn", parent, links=links, attributes=attributes)
        context.attach(set_span_in_context(span, context.set_value(_CONVERSATION, conversation, parent)))
        if trace_id := self.trace_id():
            at_work_in(trace_id)
            facts["trace_id"] = trace_id
        try:
            yield
        except StatecarError as exc:
            failed(span, exc.code or type(exc).__name__)
            raise
        except Exception as exc:
            failed(span, type(exc).__name__)
            raise
        finally:
            span.set_attributes({name: facts[fact] for fact, name in _TURN.items() if facts.get(fact)})
            if facts.get("response_status") == "failed":
                failed(span, "response_failed")
            span.end()
            context.attach(before)  # no token: this may be another task than the one that began


def note_kind(kind: str) -> None:
    """What the upstream of the turn at work is known to be, from now on."""
    context.attach(context.set_value(_KIND, kind))


def _parent_of_turn(
    before: Context, request: Mapping[str, Any], resumed_by: Sequence[tuple[str, str]] | None
) -> tuple[Context, list[Link]]:
    if resumed_by is not None:
        began = extracted(dict(resumed_by))
        return (
            (set_span_in_context(began, before), [Link(began.get_span_context())]) if is_known(began) else (before, [])
        )
    metadata = request.get("client_metadata")
    if context.get_value(SOCKET, before) and isinstance(metadata, dict):
        named = {name.removeprefix(_IN_FRAMES): value for name, value in metadata.items() if isinstance(value, str)}
        if is_known(frames := extracted(named)):
            connection = get_current_span(before).get_span_context()
            return set_span_in_context(frames, before), [Link(connection)] if connection.is_valid else []
    return before, []


def extracted(headers: Mapping[str, str]) -> Span:
    """The span that headers name; an invalid one where they name none."""
    return get_current_span(_headers.extract(headers, Context()))


def is_known(span: Span) -> bool:
    return span.get_span_context().is_valid


def traceparent(span: Span) -> str:
    """The header that names a span."""
    carrier: dict[str, str] = {}
    _headers.inject(carrier, set_span_in_context(span, Context()))
    return carrier.get("traceparent", "")


def failed(span: Span, type_: str) -> None:
    """Notes that what a span is of has failed, and how. No words: they may repeat what somebody wrote."""
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", type_)


def place(url: str) -> Attributes:
    """Where the server of a URL is, as far as the URL says so; nothing for several servers."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return {"server.address": parts.path}
    if parts.scheme.endswith("+unix"):
        return {"server.address": unquote(parts.netloc)}
    if parts.scheme not in _PORTS or not parts.hostname:
        return {}
    return {"server.address": parts.hostname, "server.port": parts.port or _PORTS[parts.scheme]}


_PORTS = {"http": 80, "https": 443, "redis": 6379, "rediss": 6379}


def _resource() -> Resource:
    """What the environment says of this service, and what it does not."""
    given = Resource.create()
    own = Resource({"service.version": __version__, "service.instance.id": str(uuid.uuid4())})
    if str(given.attributes.get("service.name", "unknown_service")).startswith("unknown_service"):
        given = given.merge(Resource({"service.name": "statecar"}))
    return own.merge(given)
