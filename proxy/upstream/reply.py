"""A chat-completions answer as decoded chunks, whatever form the upstream gave it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import httpx

from proxy import codec, sse
from proxy.chunks import Chunk, Repeats, Texts
from proxy.errors import UpstreamError
from proxy.upstream.calls import Call
from proxy.upstream.failure import Timeouts, failure, shown
from proxy.upstream.transport import Body

BODY_LIMIT = 64 * 1024 * 1024
"""Bytes of an answer that are kept in memory at once."""

STREAM_LIMIT = 256 * 1024 * 1024
"""The same of a stream, as it is sent: a token takes 200 to 400 of them, and leaves some 70 in memory."""

_REFUSAL_LIMIT = 1024 * 1024
_LINGER = 0.05  # seconds that the end of the body may come after [DONE] for the connection to be kept

Batch = list[Chunk | Texts]

log = logging.getLogger(__name__)


class Reply:
    """The answer to one call of the upstream. ``ended``: it is whole, by ``[DONE]`` or as a plain answer. ``is_cut``:
    its reader has found that it is not, though it ended cleanly.
    """

    def __init__(self, response: httpx.Response, timeouts: Timeouts, *, stream: bool, call: Call | None = None) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.ended = self.is_cut = False
        self._timeouts = timeouts
        self._call = call or Call()
        self._silent = True
        self._drained = False
        self._kept: list[Batch | UpstreamError] = []  # what the next reads give
        self._decoder, self._repeats = sse.Decoder(), Repeats()
        self._body = response.stream if isinstance(response.stream, Body) else None
        self._next = _reader(response)
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        json = kind == "application/json" or kind.endswith("+json")
        self._is_stream = kind == "text/event-stream" or (stream and not json and kind != "text/html")

    async def read(self) -> Batch:
        """The chunks that a socket read brought, as soon as one did; none at the end (wire §11.3, §11.4).

        A body that is no event stream is one chunk, a ``chat.completion``; an error inside the stream is a chunk with a
        top-level ``error``. Raises UpstreamError when the stream breaks or makes no sense, UpstreamTimeout when it
        falls silent, both after the chunks before it. Whether a clean end was too early is for the caller to judge.
        """
        if self._kept:
            return self._again()
        if not self._is_stream:
            return await self._only()
        batch: Batch = []
        while not (batch or self.ended or self._drained):
            data = await self._read()
            self._drained = not data
            try:
                self._take(self._decoder.feed(data) if data else self._decoder.flush(), batch)
            except UpstreamError as exc:
                if not batch:
                    raise
                self._kept.append(exc)
            except ValueError as exc:
                raise UpstreamError(f"The upstream's stream cannot be read: {exc}.") from exc
        return batch

    async def begin(self) -> Batch:
        """The first chunks, as soon as they have come; the next read gives them too.

        Raises as ``read`` does, and UpstreamError for a stream that ends without any.
        """
        batch = await self.read()
        if not (batch or self.ended):
            raise UpstreamError("The upstream closed the stream before it began.")
        self._kept.insert(0, batch)
        return batch

    async def settle(self) -> None:
        """Wait a moment for the end of a body that has said ``[DONE]``, so that its connection can serve again."""
        if not self.ended or self._is_over:
            return
        try:
            async with asyncio.timeout(_LINGER):
                while await self._read():
                    pass
        except (TimeoutError, UpstreamError):
            log.debug("the upstream did not end its body after [DONE]")

    @property
    def whole(self) -> bool | None:
        """Whether it came whole, as far as its reader has said; None before its end."""
        return not self.is_cut if self.ended or self._drained else None

    @property
    def _is_over(self) -> bool:
        """Whether the end of the body came with ``[DONE]``."""
        return self._body is not None and self._body.ended

    def _again(self) -> Batch:
        if isinstance(kept := self._kept[0], UpstreamError):
            raise kept
        del self._kept[0]
        return kept

    async def _read(self) -> bytes:
        """What the socket gave, b"" at the end."""
        began = perf_counter()
        try:
            data = await self._next()
        except httpx.HTTPError as exc:
            raise failure(exc, self._timeouts, begun=True, silent=self._silent) from exc
        finally:
            self._call.waits.upstream += perf_counter() - began
        if self._silent:
            self._silent = False
            if data:
                self._call.begin()
        if self._body is not None and self._body.taken > STREAM_LIMIT:
            raise UpstreamError(f"The upstream's answer exceeds {STREAM_LIMIT} bytes.")
        return data

    async def _only(self) -> Batch:
        """The chunk that a plain answer is; none when it has been read."""
        if self.ended:
            return []
        whole = await self._whole()
        self.ended = True
        return [whole]

    async def _whole(self) -> dict[str, Any]:
        parts: list[bytes] = []
        size = 0
        while part := await self._read():
            parts.append(part)
            size += len(part)
            if size > BODY_LIMIT:
                raise UpstreamError(f"The upstream's answer exceeds {BODY_LIMIT} bytes.")
        body = b"".join(parts)
        try:
            value = codec.loads(body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise UpstreamError(f"The upstream's answer is no JSON object: {_shown(body)}")
        return value

    def _take(self, payloads: list[bytes], batch: Batch) -> None:
        repeats, rest = self._repeats, iter(payloads)
        while True:
            texts, payload = (None, next(rest, None)) if repeats.hopeless else repeats.read(rest)
            if texts:
                batch.append(texts)
            if payload is None:
                return
            if payload[:1] != b"{" and payload.strip() == b"[DONE]":
                self.ended = True
                return
            chunk = _chunk(payload)
            if chunk is not None:
                batch.append(chunk)
                if not repeats.hopeless:
                    repeats.learn(payload, chunk)


def _reader(response: httpx.Response) -> Callable[[], Awaitable[bytes]]:
    """What gives the next bytes of an answer, b"" at its end: the body itself, without httpx's generators about it,
    nine calls for every token, where nothing is to be decoded.
    """
    if isinstance(response.stream, Body) and "content-encoding" not in response.headers:
        return response.stream.read
    decoded = response.aiter_bytes()
    return lambda: anext(decoded, b"")


def _chunk(payload: bytes) -> dict[str, Any] | None:
    """A payload's chunk; None for a heartbeat. Raises UpstreamError for what is neither JSON nor an error."""
    is_failure = isinstance(payload, sse.Failure)
    try:
        value = codec.loads(bytes(payload) if is_failure else payload)  # orjson takes no subclass of bytes
    except ValueError:
        value = payload.decode(errors="replace").strip()
        if value.lower() in ("", "ping"):
            log.debug("the upstream sent a chunk that says %r", value)
            return None
        if value.startswith('{"error"'):
            return {"error": value}
    if is_failure:
        return value if isinstance(value, dict) and "error" in value else {"error": value}
    if isinstance(value, dict):
        return value
    raise UpstreamError(f"The upstream sent a chunk that is no JSON object: {_shown(payload)}")


def _shown(text: bytes) -> str:
    return text[:800].decode(errors="replace").strip()[:200]


async def whole_body(response: httpx.Response, timeouts: Timeouts, limit: int) -> Any:
    """The JSON value of an answer of at most ``limit`` bytes. Raises UpstreamError for anything else."""
    body = b""
    try:
        async for part in response.aiter_bytes():
            body += part
            if len(body) > limit:
                raise UpstreamError(f"The upstream's answer exceeds {limit} bytes.")
    except httpx.HTTPError as exc:
        raise failure(exc, timeouts, begun=True) from exc
    try:
        return codec.loads(body)
    except ValueError:
        raise UpstreamError(f"The upstream's answer is no JSON: {_shown(body)}") from None


async def refusal_body(response: httpx.Response) -> Any:
    """The body of an error answer: its JSON value, or its text; as much of it as came, 1 MiB at most."""
    body = b""
    try:
        async for part in response.aiter_bytes():
            body += part
            if len(body) > _REFUSAL_LIMIT:
                break
    except httpx.HTTPError as exc:
        log.debug("the upstream's error body broke off: %s", shown(exc))
    try:
        return codec.loads(body)
    except ValueError:
        return body[:_REFUSAL_LIMIT].decode(errors="replace")
