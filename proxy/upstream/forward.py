"""What of a message crosses a proxy: the headers of both ways, and an answer handed on unread."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import httpx

from proxy.errors import UpstreamError
from proxy.upstream.calls import Call
from proxy.upstream.failure import Timeouts, failure
from proxy.upstream.transport import Body

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization"
    b" te trailer transfer-encoding upgrade".split()
)
_TRANSLATED = frozenset(b"authorization openai-organization openai-project traceparent tracestate".split())


def forwarded(
    headers: Iterable[tuple[bytes, bytes]], *, keep_authorization: bool, session_header: str = ""
) -> list[tuple[str, str]]:
    """A caller's headers that go with a translated call (wire §11.1); everything else stays here.

    ``keep_authorization``: False where the caller's Authorization is statecar's own key. ``session_header``: the one
    that a caller names its session in, in lower case.
    """
    wanted = _TRANSLATED if keep_authorization else _TRANSLATED - {b"authorization"}
    if session_header:
        wanted = wanted | {session_header.encode()}
    return [(name.decode(), value.decode("latin-1")) for name, value in headers if name.lower() in wanted]


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Headers without those that speak of one connection only (RFC 9110 §7.6.1), in their order, repeats kept."""
    pairs = list(headers)
    named = {
        token.strip().lower() for name, value in pairs if name.lower() == b"connection" for token in value.split(b",")
    }
    dropped = _HOP_BY_HOP | named
    return [(name, value) for name, value in pairs if name.lower() not in dropped]


class Forwarded:
    """An upstream's answer that is passed on as it is. ``headers``: end-to-end ones, raw. ``is_cut``: it broke off."""

    def __init__(self, response: httpx.Response, timeouts: Timeouts, call: Call) -> None:
        # 101 would end HTTP, and a server cannot send what lies outside of RFC 9110 §15
        if not 200 <= response.status_code <= 599:
            raise UpstreamError(f"The upstream answered with status {response.status_code}, which cannot be passed on.")
        assert isinstance(response.stream, Body)
        self.status = response.status_code
        self.headers = end_to_end(response.headers.raw)
        self.is_cut = False
        self._body = response.stream
        self._timeouts, self._call = timeouts, call

    @property
    def ended(self) -> bool:
        """Whether the last byte has been handed out, known with that byte if it came with the end."""
        return self._body.ended

    @property
    def whole(self) -> bool | None:
        """Whether it came whole; None where it was left before its end."""
        return False if self.is_cut else self.ended or None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it came off the socket, undecoded. Raises UpstreamError when it breaks off."""
        silent = True
        try:
            while data := await self._body.read():
                if silent:
                    silent = False
                    self._call.begin()
                yield data
        except httpx.TransportError as exc:
            self.is_cut = True
            error = failure(exc, self._timeouts, begun=True)
            self._call.fail(error)  # whoever passes it on has begun to answer, and ends without raising
            raise error from exc
