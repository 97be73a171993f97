"""The upstream: calls of its chat completions, and anything else passed on to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any, Protocol

import httpx

from proxy import __version__, codec
from proxy.errors import UpstreamError, UpstreamTimeout
from proxy.refusals import from_upstream
from proxy.upstream.address import Address
from proxy.upstream.calls import Call, Heard, unheard
from proxy.upstream.failure import Timeouts, failure, shown
from proxy.upstream.forward import Forwarded, Headers, end_to_end
from proxy.upstream.reply import BODY_LIMIT, Reply, refusal_body, whole_body
from proxy.upstream.transport import Transport
from proxy.waits import Waiting, Waits, waits

KEYS = frozenset((b"authorization", b"api-key"))
"""Headers in which a caller's key may stand."""

_CHECK = 5.0  # seconds a readiness check may take
_QUESTION = 10.0  # seconds one of the upstream's other endpoints may take

log = logging.getLogger(__name__)


class Followed(Protocol):
    """Who follows calls from their beginning on. ``reply``: what their answers are made as."""

    reply: type[Reply]

    def chat(self, upstream: Upstream, heard: Heard, request: httpx.Request) -> Call:
        """A chat call that is about to be made."""

    def passage(self, upstream: Upstream, heard: Heard, request: httpx.Request) -> Call:
        """Any other request that is about to be made, as one that is passed on."""


class Upstream:
    """A chat-completions server at ``base_url``, up to and including its ``/v1``; ``name`` is its host, for logs.

    ``api_key``: sent instead of whatever Authorization the caller has; ``headers``: beside all others, and instead of
    those of their names. Timeouts in seconds: until there is a connection, until the head of the answer, and between
    two reads. ``heard``: told of every chat call and passed-on request when it is over; ``followed``: told when it
    begins. Raises ValueError for a URL that cannot be used.
    """

    followed: Followed | None = None

    def __init__(  # noqa: PLR0913  all that an operator may say of one
        self,
        base_url: str,
        *,
        api_key: str | None,
        headers: Sequence[tuple[str, str]] = (),
        connect_timeout: float = 5.0,
        first_byte_timeout: float = 600.0,
        idle_timeout: float = 300.0,
        user_agent: str = f"statecar/{__version__}",
        heard: Heard = unheard,
    ) -> None:
        self._address = Address(base_url)
        self.name = self._address.name
        self.base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._headers = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        self._named = frozenset(name.lower() for name, _ in self._headers)
        self._timeouts = Timeouts(connect_timeout, first_byte_timeout, idle_timeout)
        self._user_agent = user_agent
        self._heard = heard
        self._transport = Transport(self._address.origin, self._address.socket)
        self._client = _Client(transport=self._transport, trust_env=False)

    @asynccontextmanager
    async def open(self, body: bytes, headers: Sequence[tuple[str, str]], *, stream: bool) -> AsyncIterator[Reply]:
        """POST ``body`` to ``/chat/completions``; leaving the block closes the connection if the body has not ended.

        ``headers``: sent beside content-type, accept, user-agent and the key. ``stream``: what the body asks for.
        Raises on entry: UpstreamUnreachable, UpstreamTimeout, UpstreamError with the upstream's own status.
        """
        pairs = self._with_key([(name.encode(), value.encode("latin-1")) for name, value in headers])
        pairs += [
            (b"content-type", b"application/json"),
            (b"accept", b"text/event-stream" if stream else b"application/json"),
            (b"user-agent", self._user_agent.encode()),
            (b"content-length", b"%d" % len(body)),
        ]
        request = self._request("POST", self._address.chat, pairs, body, self._timeouts)
        followed = self.followed
        with followed.chat(self, self._heard, request) if followed else Call(self.name, self._heard) as call:
            response = await self._send(request, call.waits)
            del body, request  # not kept while it streams: orjson's bytes take up to ten times their length
            call.status = response.status_code
            try:
                if response.status_code >= 300:
                    raise await _refused(response)
                kind = followed.reply if followed else Reply
                reply = kind(response, self._timeouts, stream=stream, call=call)
                yield reply
                await reply.settle()
            finally:
                await response.aclose()

    @asynccontextmanager
    async def forward(
        self,
        method: str,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes | AsyncIterator[bytes] | None,
        *,
        keep_authorization: bool = True,
    ) -> AsyncIterator[Forwarded]:
        """Pass a request on byte for byte and give the answer unread; leaving the block early cuts the connection.

        ``target``: the caller's raw path and query, which are mapped (``Address.target``). ``body``: None for none,
        bytes when it is all there, else its parts. Only connecting has a time limit. Raises on entry: NotFound,
        UpstreamUnreachable, UpstreamError.
        """
        mapped = self._address.target(target, harmless=method == "OPTIONS")
        timeouts = replace(self._timeouts, first_byte=None, idle=None)
        # expect: our server has answered it
        pairs = [pair for pair in end_to_end(headers) if pair[0].lower() not in (b"host", b"expect")]
        pairs = self._with_key(pairs, keep_authorization=keep_authorization)
        request = self._request(method, self._address.url, pairs, body, timeouts)
        request.extensions["target"] = mapped
        followed = self.followed
        with followed.passage(self, self._heard, request) if followed else Call(self.name, self._heard) as call:
            try:
                response = await self._transport.handle_async_request(request)
            except httpx.TransportError as exc:
                raise self._failure(exc, timeouts) from exc
            del body, request  # not kept while the answer comes
            call.status = response.status_code
            try:
                yield Forwarded(response, timeouts, call)
            finally:
                await response.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        body: Any | None = None,
        headers: Sequence[tuple[str, str]] = (),
        *,
        limit: int = BODY_LIMIT,
        seconds: float = _QUESTION,
    ) -> Any:
        """The JSON that one of the upstream's other endpoints answers: its models, its tokenizer.

        ``path``: at the server's root, as ``/tokenize``; ``/v1/...`` lies below the base URL, wherever that is.
        ``headers``: of the caller; its key is sent when statecar has none. ``limit``: most bytes of the answer;
        ``seconds``: for all of it. Raises UpstreamError, also for an answer that is no JSON.
        """
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        pairs += [(b"accept", b"application/json"), (b"user-agent", self._user_agent.encode())]
        content = None if body is None else codec.dumps(body)
        if content is not None:
            pairs += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        timeouts = Timeouts(min(self._timeouts.connect or seconds, seconds), seconds, seconds)
        request = self._request(method, self._address.url, self._with_key(pairs), content, timeouts)
        request.extensions["target"] = self._address.target(path.encode())
        followed = self.followed
        with followed.passage(self, unheard, request) if followed else Call() as call:
            try:
                async with asyncio.timeout(seconds):
                    response = await self._send(request, call.waits)
                    call.status = response.status_code
                    try:
                        if response.status_code >= 300:
                            raise await _refused(response)
                        with Waiting("upstream"):
                            return await whole_body(response, timeouts, limit)
                    finally:
                        await response.aclose()
            except TimeoutError as exc:
                raise UpstreamTimeout(f"The upstream did not answer {path} within {seconds:g} s.") from exc

    async def check(self, path: str = "") -> str | None:
        """None when the upstream answers ``GET /models`` with any status below 500, else why it is not ready.

        ``path``: to be asked instead, as for ``ask``.
        """
        pairs = self._with_key([(b"user-agent", self._user_agent.encode())])
        timeouts = Timeouts(self._timeouts.connect, _CHECK, _CHECK)
        try:
            request = self._request("GET", f"{self._address.url}/models", pairs, None, timeouts)
            if path:
                request.extensions["target"] = self._address.target(path.encode())
            response = await self._send(request, waits())
        except UpstreamError as exc:
            return exc.message
        await response.aclose()
        return f"The upstream answered {response.status_code}." if response.status_code >= 500 else None

    async def aclose(self) -> None:
        """Close every connection; calls in flight end as broken."""
        await self._client.aclose()

    @property
    def has_key(self) -> bool:
        """Whether a key of ours is sent, so that the caller's is not needed."""
        return bool(self._api_key)

    def _with_key(self, headers: Headers, *, keep_authorization: bool = True) -> Headers:
        if self._api_key or not keep_authorization:
            headers = [pair for pair in headers if pair[0].lower() not in KEYS]
        if self._api_key:
            headers.append((b"authorization", b"Bearer " + self._api_key.encode()))
        if self._headers:
            headers = [pair for pair in headers if pair[0].lower() not in self._named] + self._headers
        return headers

    @staticmethod
    def _request(
        method: str,
        url: httpx.URL | str,
        headers: Headers,
        body: bytes | AsyncIterator[bytes] | None,
        timeouts: Timeouts,
    ) -> httpx.Request:
        # "timeout" keeps httpx from setting its own; ours are read by the transport. Given a stream it adds no headers,
        # to those given here: 4 us instead of 11
        stream = httpx.ByteStream(body or b"") if body is None or isinstance(body, bytes) else _Parts(body)
        extensions = {"timeout": {}, "timeouts": timeouts}
        request = httpx.Request(method, url, headers=headers, stream=stream, extensions=extensions)
        if isinstance(stream, httpx.ByteStream):
            request.read()
        return request

    async def _send(self, request: httpx.Request, noted: Waits) -> httpx.Response:
        began = perf_counter()
        try:
            return await self._client.answered(request)
        except httpx.HTTPError as exc:
            raise self._failure(exc, request.extensions["timeouts"]) from exc
        finally:
            noted.upstream += perf_counter() - began

    def _failure(self, exc: httpx.HTTPError, timeouts: Timeouts) -> UpstreamError:
        error = failure(exc, timeouts, begun=False)
        log.warning("upstream %s: %s (%s)", self.name, error.message, shown(exc))
        return error


class _Client(httpx.AsyncClient):
    """Requests of all callers go through it: none may get another's cookies."""

    async def answered(self, request: httpx.Request) -> httpx.Response:
        """What the transport answers; ``send`` asks for redirects, cookies and credentials too: 10 us, not 2."""
        return await self._transport_for_url(request.url).handle_async_request(request)


class _Parts(httpx.AsyncByteStream):
    """A body that is read as it comes."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts = parts

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts


async def _refused(response: httpx.Response) -> UpstreamError:
    if response.status_code < 400:
        return UpstreamError(
            f"The upstream answered with a redirect ({response.status_code}); redirects are not followed."
        )
    with Waiting("upstream"):
        body = await refusal_body(response)
    return from_upstream(body, response.status_code, response.headers)
