"""Limits of tenants for what is passed on: let in by the same rules, its tokens read from the answer (ADR 0023)."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy import codec
from proxy.errors import StatecarError
from proxy.routes.access import Access
from proxy.state import Admission, Quotas
from proxy.turn import counted, legible

_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_LONGEST = 4096
"""Bytes of a usage object at most."""

_LAP = 32
"""Bytes of a piece that the beginning of a usage object may end in."""

_EVENT = re.compile(rb"^data:", re.MULTILINE)
_BYTES = 4
"""Bytes of JSON to a token, about, where nothing tells."""


class Limited:
    """An ASGI application in front of the one that passes requests on: POST requests of tenants with a quota count.

    Raises RateLimited before anything was sent.
    """

    def __init__(self, app: ASGIApp, access: Access, quotas: Quotas) -> None:
        self._app, self._access, self._quotas = app, access, quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._access.authenticator.limits or scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        caller = await self._access.caller(HTTPConnection(scope), unknown=True)
        if caller.grant.quota is None:
            await self._app(scope, receive, send)
            return
        if caller.grant.quota.tokens_per_minute:  # most clients would take it compressed, and then nothing tells
            asked = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
            scope = {**scope, "headers": [*asked, (b"accept-encoding", b"identity")]}
        async with self._quotas.admitted(caller.tenant, caller.grant.quota) as admission:
            caller.limits.update(admission.headers)
            exchange = _Exchange(scope, receive, send, admission, self._quotas)
            try:
                await self._app(scope, exchange.receive, exchange.send)
            except StatecarError:
                exchange.counts = False  # nothing was answered
                raise
            finally:
                exchange.note()


class _Exchange:
    """A request and its answer on their way, read for what they take.

    ``counts``: it takes something: also one whose client leaves before the answer, which is being made by then.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, admission: Admission, quotas: Quotas) -> None:
        self._receive, self._send, self._admission, self._quotas = receive, send, admission, quotas
        self._asks_json = _is(scope["headers"], b"json")
        self._asked = 0
        self._found = Found()
        self.counts = True

    async def receive(self) -> Message:
        message = await self._receive()
        if self._asks_json:
            self._asked += legible(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            limits = [(name.encode(), value.encode()) for name, value in self._admission.headers.items()]
            ours = {name for name, _ in limits}
            headers = [pair for pair in message["headers"] if pair[0].lower() not in ours]
            message = {**message, "headers": [*headers, *limits]}
            self.counts = message["status"] < 400
            self._found = Found(text=_is(headers, b"json"), events=_is(headers, b"text/event-stream"))
        elif self.counts:
            self._found.read(message.get("body", b""))
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.note()
            await self._quotas.end(self._admission)  # before the client can ask for more
        await self._send(message)

    def note(self) -> None:
        if self.counts:
            self._admission.tokens = self._found.tokens(self._asked)


class Found:
    """What a passed-on answer tells of the tokens that it took, read piece by piece.

    ``text``, ``events``: it is JSON, or an event stream, so that its length tells something where nothing else does.
    """

    def __init__(self, *, text: bool = False, events: bool = False) -> None:
        self._is_text, self._is_events = text, events
        self._size = self._events = 0
        self._first = self._usage = self._lap = b""

    def read(self, piece: bytes) -> None:
        joined = self._lap + piece
        known = len(self._lap)  # what ends there was found before
        if found := [each.end() - 1 for each in _USAGE.finditer(joined) if each.end() > known]:
            if not self._first and (self._usage or found[1:]):
                self._first = self._usage or joined[found[0] : found[0] + _LONGEST]
            self._usage = joined[found[-1] : found[-1] + _LONGEST]
        elif self._usage:
            self._usage += piece[: _LONGEST - len(self._usage)]
        self._lap = joined[-_LAP:]
        self._size += len(piece)
        if self._is_events:
            self._events += len(_EVENT.findall(piece))

    def tokens(self, asked: int) -> int:
        """As the answer tells, else about. ``asked``: bytes of the request."""
        first, last = _object(self._first), _object(self._usage)
        # the last one counts, those of streams are cumulative; Anthropic's says what came out, the first what went in
        told = _tokens(last if "total_tokens" in last else first | last)
        if told is not None:
            return told
        return asked // _BYTES + (self._events if self._is_events else self._is_text * self._size // _BYTES)


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object that a text begins with; {} for none."""
    depth = size = 0
    for byte in text:
        size += 1
        depth += (byte == ord("{")) - (byte == ord("}"))
        if depth == 0:
            break
    try:
        value = codec.loads(text[:size])
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def _tokens(usage: dict[str, Any]) -> int | None:
    """The tokens that a usage object tells; None for none."""
    if isinstance(total := usage.get("total_tokens"), int):
        return counted(total)
    parts = [usage.get(f"{part}_tokens") for part in ("prompt", "completion", "input", "output")]
    numbers = [part for part in parts if isinstance(part, int)]
    return counted(sum(numbers)) if numbers else None


def _is(headers: list[tuple[bytes, bytes]], kind: bytes) -> bool:
    """Whether a message's content is of a type, and not compressed."""
    found = {name.lower(): value.lower() for name, value in headers}
    return kind in found.get(b"content-type", b"") and found.get(b"content-encoding", b"identity") == b"identity"
