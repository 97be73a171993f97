"""The server's span of every request, around the application and within what tells of its end."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from opentelemetry import context
from opentelemetry.trace import Span, SpanKind, set_span_in_context
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.observe.conventions import Attributes, short
from proxy.observe.logs import at_work_in
from proxy.observe.requests import UPGRADED
from proxy.observe.spans import SOCKET, Spans, extracted, failed, is_known, traceparent

_PORT = re.compile(r"(.+):([0-9]{1,5})")
_METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS TRACE CONNECT".split())


class Traced:
    """Goes on with the caller's trace, or begins one. From then on the request's ``traceparent`` is that of the span.

    ``unseen``: paths without spans, which are asked all the time.
    """

    def __init__(self, app: ASGIApp, spans: Spans, unseen: Collection[str]) -> None:
        self._app, self._spans, self._unseen = app, spans, unseen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in self._unseen:
            await self._app(scope, receive, send)
            return
        headers = {str(name, "latin-1").lower(): str(value, "latin-1") for name, value in scope["headers"]}
        parent = extracted(headers)
        is_socket = scope["type"] == "websocket"
        method = "GET" if is_socket else scope["method"]
        named = method if method in _METHODS else "HTTP"
        span = self._spans.tracer.start_span(
            named,
            set_span_in_context(parent),
            kind=SpanKind.SERVER,
            attributes=_attributes(scope, method, headers),
        )
        _replace(scope, span, keeps_state=is_known(parent))
        context.attach(set_span_in_context(span, context.set_value(SOCKET, is_socket)))
        if trace_id := self._spans.trace_id():
            at_work_in(trace_id)
        await self._answered(scope, receive, send, span, named)

    async def _answered(self, scope: Scope, receive: Receive, send: Send, span: Span, method: str) -> None:
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = UPGRADED
                _end(span, scope, method, status)  # its turns come under it, and it may be open for an hour
            await send(message)

        broken: Exception | None = None
        try:
            await self._app(scope, receive, watched)
        except Exception as exc:
            broken = exc
            raise
        finally:
            if status != UPGRADED:
                _end(span, scope, method, status or (500 if broken else 0), broken)
            del broken


def _end(span: Span, scope: Scope, method: str, status: int, broken: Exception | None = None) -> None:
    facts: dict[str, Any] = scope.get("statecar", {})
    route = facts.get("route")
    if route and not facts.get("passed_on"):
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
    if status:
        span.set_attribute("http.response.status_code", status)
    for name in ("request_id", "tenant"):
        if value := facts.get(name):
            span.set_attribute(f"statecar.{name}", value)
    if facts.get("left"):
        span.set_attribute("statecar.client_left", True)
    if broken or status >= 500:
        failed(span, type(broken).__name__ if broken else str(status))
    span.end()


def _attributes(scope: Scope, method: str, headers: dict[str, str]) -> Attributes:
    """Of the conventions for HTTP servers. No query: it may hold keys of the upstream's."""
    out: Attributes = {
        "http.request.method": method if method in _METHODS else "_OTHER",
        "url.path": short(scope["path"]),
        "url.scheme": {"ws": "http", "wss": "https"}.get(scope.get("scheme", "http"), scope.get("scheme", "http")),
        "network.protocol.version": scope.get("http_version", "1.1"),
    }
    if client := scope.get("client"):
        out["client.address"] = client[0]
    if agent := headers.get("user-agent"):
        out["user_agent.original"] = short(agent)
    if host := headers.get("host"):
        out["server.address"] = short(host)
        if found := _PORT.fullmatch(host):
            out |= {"server.address": short(found[1]), "server.port": int(found[2])}
    return out


def _replace(scope: Scope, span: Span, *, keeps_state: bool) -> None:
    """Puts the span's ``traceparent`` into the request. In place: who tells of the request's end has this scope."""
    if not (text := traceparent(span)):
        return  # the environment has switched OpenTelemetry off
    gone = {b"traceparent"} if keeps_state else {b"traceparent", b"tracestate"}
    headers = [pair for pair in scope["headers"] if pair[0].lower() not in gone]
    scope["headers"] = [*headers, (b"traceparent", text.encode())]
