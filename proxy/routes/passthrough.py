"""Everything that is not ours goes to the upstream and back, byte for byte (wire §3.10)."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from starlette.types import Receive, Scope, Send

from proxy import codec
from proxy.errors import ModelNotFound, NotBuilt, UpstreamError, UpstreamUnavailable, UpstreamUnreachable
from proxy.grants import EVERYTHING, Grant
from proxy.routes.edge import facts
from proxy.routes.sender import Sender
from proxy.upstream import Forwarded, Pool, Target
from proxy.wire import every_model, in_form, in_json, in_object, renamed

log = logging.getLogger(__name__)

_FORM = 64 * 1024
"""Bytes at the beginning of a form in which its model is looked for."""
_READING = frozenset(("GET", "HEAD", "OPTIONS"))  # which ask no model; the last one without a key
_EVENTS = re.compile(rb"\s*text/event-stream\b", re.IGNORECASE)


class Passthrough:
    """An ASGI application that relays requests to an upstream and its answers back, unread.

    Where several groups serve different models, or the caller may not ask all of them, a body's model decides: such a
    body is read first, ``body_limit`` bytes of it at most. ``keep_authorization``: False where the caller's
    Authorization is statecar's own key. ``session_header``: what tells which requests should meet the same replica.
    ``streams``: called with 1 for an event stream that begins, with -1 for one that is over. Raises, before anything
    was sent: UpstreamUnreachable, UpstreamError, NotFound for the upstream's own responses, ModelNotFound, TooLarge,
    NotBuilt for an upgrade.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        keep_authorization: bool,
        body_limit: int,
        session_header: str = "",
        streams: Callable[[int], object] = bool,
    ) -> None:
        self._pool, self._streams = pool, streams
        self._keep_authorization, self._limit = keep_authorization, body_limit
        self._session_header = session_header.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await _refuse_websocket(scope, receive, send)
            return
        _refuse_upgrade(scope)
        first = await receive()
        if first["type"] == "http.disconnect":
            return
        caller = Sender(first, receive)
        watch = asyncio.create_task(caller.gone())
        relay = asyncio.create_task(self._relay(scope, caller, send))
        try:
            await asyncio.wait((watch, relay), return_when=asyncio.FIRST_COMPLETED)
        finally:
            finished = relay.done()
            watch.cancel()
            relay.cancel()
            await asyncio.gather(watch, relay, return_exceptions=True)
        if finished:
            relay.result()
        else:
            facts(scope)["left"] = True

    async def _relay(self, scope: Scope, caller: Sender, send: Send) -> None:
        async with AsyncExitStack() as stack:
            answer, name = await self._answer(stack, scope, await self._asked(scope, caller))
            facts(scope)["upstream"] = name
            headers = answer.headers
            if answer.status in (204, 304):
                # no body may follow, but servers wait for as many bytes as this says
                headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            is_stream = any(key.lower() == b"content-type" and _EVENTS.match(value) for key, value in headers)
            self._streams(is_stream)
            try:
                await _relay_body(answer, send)
            except UpstreamError as exc:
                # Returning without the last message makes the server cut the connection: no end that looks clean.
                log.warning("upstream %s: %s", name, exc.message)
            finally:
                self._streams(-is_stream)

    async def _answer(self, stack: AsyncExitStack, scope: Scope, asked: Asked) -> tuple[Forwarded, str]:
        """(what the group that is asked answers, or the next one, open as long as ``stack`` is; the replica's name)."""
        target = asked.target
        while True:
            request = target.forward(
                scope["method"],
                _target(scope),
                *asked.message(scope["headers"], target.model),
                keep_authorization=self._keep_authorization,
            )
            try:
                answer = await stack.enter_async_context(request)
            except UpstreamError as exc:
                instead = asked.instead(target, exc)
                if instead is None:
                    raise
            else:
                instead = asked.instead(target, _refusal(answer)) if target.fallbacks else None
                if instead is None:
                    return answer, target.name
                await stack.aclose()  # of the one that could not
            target = instead

    async def _asked(self, scope: Scope, caller: Sender) -> Asked:
        grant: Grant = scope.get("statecar.grant", EVERYTHING)
        session = _value(scope, self._session_header)
        if scope["method"] in _READING or (self._pool.is_single and not grant.models):
            return Asked(self._pool.pick("", session), caller.body())
        return await self._routed(scope, caller, grant, session)

    async def _routed(self, scope: Scope, caller: Sender, grant: Grant, session: str) -> Asked:
        """Who is to be asked what, by the model that the body names; the first group, where it names none.

        Raises ModelNotFound for a model that no group serves, or that the caller must not ask, TooLarge.
        """
        content_type = _value(scope, b"content-type")
        value: dict[str, Any] = {}
        if content_type.lower().startswith("multipart/form-data"):
            model, is_json = (in_form(content_type, await caller.beginning(_FORM)) or [""])[-1], False
        elif await caller.first() in (b"{", b""):  # white space may stand before an object
            value = in_object(await caller.whole(self._limit))
            found = in_json(value)
            model, is_json = found or "", found is not None
        else:
            model, is_json = "", False
        if grant.models:
            types, codings = _values(scope, b"content-type"), _values(scope, b"content-encoding")
            _check(every_model(types, await caller.whole(self._limit), codings, value), grant)
        return Asked(self._pool.pick(model, session), caller.body(), model, is_json)


@dataclass(frozen=True)
class Asked:
    """Who is asked at first, and the ``body``. ``model``: as that names it, "" where it does not; ``is_json``: in a
    place where it can be given another name.
    """

    target: Target
    body: bytes | AsyncIterator[bytes] | None
    model: str = ""
    is_json: bool = False

    def message(
        self, headers: list[tuple[bytes, bytes]], model: str
    ) -> tuple[list[tuple[bytes, bytes]], bytes | AsyncIterator[bytes] | None]:
        """(headers, body) for a model by its name upstream."""
        if not self.is_json or self.model == model or not isinstance(self.body, bytes):
            return headers, self.body
        body = renamed(self.body, model)
        kept = [pair for pair in headers if pair[0] != b"content-length"]
        return [*kept, (b"content-length", b"%d" % len(body))], body

    def instead(self, target: Target, failure: UpstreamError) -> Target | None:
        """Who is asked after this failure; None where it stands, or the body cannot be sent there."""
        is_whole = self.body is None or isinstance(self.body, bytes)
        is_unsent = isinstance(failure, (UpstreamUnreachable, UpstreamUnavailable))
        if not target.fallbacks or not (is_whole or is_unsent):
            return None
        _, model = target.fallbacks[0]
        if self.model not in ("", model) and not self.is_json:
            return None
        return target.instead(failure)


def _refusal(answer: Forwarded) -> UpstreamError:
    return UpstreamError(f"The upstream answered {answer.status}.", status=answer.status)


def _check(models: list[str], grant: Grant) -> None:
    """Raises ModelNotFound for a model that must not be asked; for none, as the upstream would take one of its own."""
    for model in models or [""]:
        if not model or not grant.covers(model):
            raise ModelNotFound(model)


async def _relay_body(answer: Forwarded, send: Send) -> None:
    async for data in answer.chunks():
        ended = answer.ended
        await send({"type": "http.response.body", "body": data, "more_body": not ended})
        if ended:
            return
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _value(scope: Scope, name: bytes) -> str:
    """A header's first value, "" for none."""
    return next((value.decode("latin-1").strip() for key, value in scope["headers"] if key == name), "") if name else ""


def _values(scope: Scope, name: bytes) -> str:
    """All values of a header."""
    return b",".join(value for key, value in scope["headers"] if key == name).decode("latin-1")


def _target(scope: Scope) -> bytes:
    path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    query: bytes = scope["query_string"]
    return path + b"?" + query if query else path


def _refuse_upgrade(scope: Scope) -> None:
    """Raise NotBuilt for an upgrade, save to ``h2c``: Java's client offers that each time and lives without it."""
    for name, value in scope["headers"]:
        if name == b"upgrade" and value.strip().lower() != b"h2c":
            raise NotBuilt(_NO_UPGRADE)


_NO_UPGRADE = "Protocol upgrades are not passed on to the upstream."


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1000})
        return
    error = NotBuilt(_NO_UPGRADE)
    headers = [(b"content-type", b"application/json")]
    await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": codec.dumps(error.body())})
