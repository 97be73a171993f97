"""The client's span of every call of an upstream, one for each try, which the upstream is told of."""

from __future__ import annotations

from time import perf_counter
from types import TracebackType
from typing import Any

from opentelemetry.trace import Span, SpanKind, get_current_span

from proxy.observe import conventions
from proxy.observe.conventions import Answered, Attributes
from proxy.observe.spans import Spans, failed, is_known, place, traceparent
from proxy.upstream import CUT, Batch, Call, Heard, Reply, Upstream


class TracedReply(Reply):
    """An answer that also its span hears of."""

    _last: Batch | None = None

    async def read(self) -> Batch:
        batch = await super().read()
        if batch is not self._last and isinstance(self._call, TracedCall):  # it may be given twice
            self._last = batch
            self._call.answered.take(batch)
        return batch


class TracedCall(Call):
    """``answered``: what the answer's chunks say of it."""

    def __init__(self, upstream: str, heard: Heard, span: Span, answered: Answered, *, streamed: bool) -> None:
        super().__init__(upstream, heard)
        self.answered = answered
        self._span, self._asked, self._streamed = span, perf_counter(), streamed

    def begin(self) -> None:
        super().begin()
        if self._streamed:
            self._span.set_attribute("gen_ai.response.time_to_first_chunk", perf_counter() - self._asked)

    def __exit__(self, type_: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        super().__exit__(type_, exc, at)
        self._span.set_attributes(self.answered.attributes())
        _end(self._span, self.failure, self.status)


class TracedPassage(Call):
    """A request that is passed on, or a question."""

    def __init__(self, upstream: str, heard: Heard, span: Span) -> None:
        super().__init__(upstream, heard)
        self._span = span

    def __exit__(self, type_: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        super().__exit__(type_, exc, at)
        _end(self._span, self.failure, self.status)


def _end(span: Span, failure: str, status: int) -> None:
    """``status``: ``CUT`` for one that was cut before it was answered."""
    if status != CUT:
        span.set_attribute("http.response.status_code", status)
    if failure or (status >= 400 and status != CUT):
        failed(span, failure or str(status))
    span.end()


def _tell(request: Any, span: Span) -> None:
    if text := traceparent(span):  # none where the environment has switched OpenTelemetry off
        request.headers["traceparent"] = text


class Calls:
    """Who follows the calls of upstreams from their beginning on."""

    reply: type[Reply] = TracedReply

    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    def chat(self, upstream: Upstream, heard: Heard, request: Any) -> Call:
        """A chat call, ``request``: as httpx has it."""
        model, content = conventions.model(request.content), self._spans.content
        attributes: Attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": conventions.provider(self._spans.kind() or "generic"),
            "gen_ai.request.model": model,
            **self._spans.conversation(),
            **place(upstream.base_url),
        }
        span = self._spans.tracer.start_span(f"chat {model}", kind=SpanKind.CLIENT, attributes=attributes)
        _tell(request, span)
        if not span.is_recording():
            return Call(upstream.name, heard)
        span.set_attributes(conventions.asked(request.content, content=content))
        if streamed := request.headers["accept"] == "text/event-stream":
            span.set_attribute("gen_ai.request.stream", True)
        return TracedCall(upstream.name, heard, span, Answered(keeps=content), streamed=streamed)

    def passage(self, upstream: Upstream, heard: Heard, request: Any) -> Call:
        """Any other request, with a path of its own. What a process asks for itself has no span."""
        if not is_known(get_current_span()):
            return Call(upstream.name, heard)
        path = request.extensions["target"].partition(b"?")[0].decode("latin-1")
        attributes: Attributes = {
            "http.request.method": request.method,
            "url.full": f"{request.url.scheme}://{request.url.netloc.decode()}{path}",
            **place(upstream.base_url),
        }
        span = self._spans.tracer.start_span(request.method, kind=SpanKind.CLIENT, attributes=attributes)
        _tell(request, span)
        return TracedPassage(upstream.name, heard, span)
