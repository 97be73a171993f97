"""What every endpoint shares: the body within its limit, JSON answers, and knowing when the client left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from proxy import codec
from proxy.errors import InvalidRequest, TooLarge
from proxy.routes.open import current_task
from proxy.state import Page
from proxy.waits import Waiting
from proxy.wire import page


class ClientGone(Exception):
    """The client left before it had its answer; nobody is there to be told."""


LIMITS = "statecar.limits"
"""Where a scope has the headers that go with every answer to a request that was let in."""


def facts(scope: Scope) -> dict[str, Any]:
    """What the access log will say of this request."""
    known: dict[str, Any] = scope.setdefault("statecar", {})
    return known


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(codec.dumps(value), status, headers, "application/json")


async def json_body(request: Request, limit: int, *, optional: bool = False) -> Any:
    """The decoded body; None for an empty one where it is ``optional``. ``limit``: bytes.

    Raises TooLarge, and InvalidRequest for what is no JSON. Any content type will do (wire §1.2).
    """
    with Waiting("client"):
        body = await _read(request, limit)
    return None if optional and not body else decoded(body)


def decoded(body: bytes) -> Any:
    """The value of a JSON text. Raises InvalidRequest for what is none."""
    try:
        value = codec.loads(body)
        if body.count(b"[") + body.count(b"{") > 500:
            codec.dumps(_nested(value))
    except ValueError as exc:
        raise InvalidRequest(
            "We could not parse the JSON body of your request. The API expects a JSON payload, but what was sent was"
            f" not valid JSON: {exc}."
        ) from None
    return value


def _nested(value: Any, levels: int = 50) -> Any:
    """The value as deep in another as it may come to lie upstream: what cannot be written must not be taken in."""
    for _ in range(levels):
        value = [value]
    return value


def page_of(request: Request) -> Page:
    """The page a list request asks for. Raises InvalidRequest for wrong bounds (wire §3.5)."""
    asked = page(request.query_params.multi_items())
    return Page(limit=asked["limit"], order=asked["order"], after=asked["after"], before=asked["before"])


def listed(rows: list[dict[str, Any]], *, has_more: bool) -> Response:
    """The list envelope, all keys present; the ids are those of the page's first and last row (wire §3.5)."""
    first, last = (rows[0]["id"], rows[-1]["id"]) if rows else (None, None)
    return answer({"object": "list", "data": rows, "first_id": first, "last_id": last, "has_more": has_more})


async def _read(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    told = f"The request body is too large: this server takes at most {limit} bytes."
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(told)
    pieces: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece, more = message.get("body", b""), message.get("more_body", False)
        size += len(piece)
        if size > limit:
            raise TooLarge(told)
        pieces.append(piece)
    return b"".join(pieces)


class Ticking(Protocol):
    """Something that wants to be woken while its request waits."""

    def due_in(self) -> float | None:
        """Seconds until the next tick, None for no tick at all."""

    async def tick(self) -> None: ...


class attended:
    """Runs its block as long as the client is there; raises ClientGone as soon as it is not.

    A handler is never told that its client left, and ``send`` never raises: somebody must wait on ``receive``. The same
    task keeps the time for ``ticking``, so that a request costs one task beside its own and no token costs any.

    What ``asyncio.timeout`` does, without the clock: as a generator over one it took 12 us a request, not 6.
    """

    def __init__(self, receive: Receive, ticking: Ticking | None = None) -> None:
        self._receive, self._ticking = receive, ticking
        self._here, self._left = True, False

    async def __aenter__(self) -> None:
        self._task = current_task()
        self._cancelling = self._task.cancelling()
        watch = _tick(self._receive, self._ticking) if self._ticking else _watch(self._receive)
        self._watcher = asyncio.create_task(watch)
        self._watcher.add_done_callback(self._leave)

    def _leave(self, _: asyncio.Task[None]) -> None:
        if self._here:  # else the block ended in the very step in which the client left
            self._left = True
            self._task.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._here = False
        self._watcher.remove_done_callback(self._leave)
        self._watcher.cancel()
        if self._left and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            if broken := self._watcher.exception():
                raise broken from None
            raise ClientGone from None


async def beside(receive: Receive, ticking: Ticking, work: Coroutine[Any, Any, None]) -> None:
    """Does the work in a task of its own as long as the client is there; raises ClientGone as soon as it is not.

    ``attended`` the other way round, for work that is woken for every token: each time a request's own task wakes, six
    frames are gone through that have nothing to do with it, six calls of 92.
    """
    task, worker = current_task(), asyncio.create_task(work)
    cancelling, is_heard, is_done = task.cancelling(), True, False

    def done(ended: asyncio.Task[None]) -> None:
        nonlocal is_done
        ended.cancelled() or ended.exception()  # seen, whatever is raised here
        if is_heard:  # else it ended in the very step in which the client left
            is_done = True
            task.cancel()

    worker.add_done_callback(done)
    try:
        await _tick(receive, ticking)
    except asyncio.CancelledError:
        if not is_done or task.uncancel() > cancelling:
            raise
    finally:
        is_heard = False
        if not worker.done():
            await _ended(worker)
        has_left = worker.cancelled() and not is_done
    try:
        if has_left:
            raise ClientGone
        worker.result()
    finally:
        del worker  # it knows its failure, which knows this frame


async def _ended(worker: asyncio.Task[None]) -> None:
    """Cancels a task and returns when it has ended; one that is cancelled meanwhile hurries it, and waits on."""
    is_cancelled = False
    while not worker.done():
        worker.cancel()
        try:
            await asyncio.wait([worker])
        except asyncio.CancelledError:
            is_cancelled = True
    if is_cancelled:
        raise asyncio.CancelledError


async def _watch(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
        pass


async def _tick(receive: Receive, ticking: Ticking) -> None:
    """The same, and wakes ``ticking`` meanwhile."""
    while True:
        try:
            async with asyncio.timeout(ticking.due_in()):
                await _watch(receive)
                return
        except TimeoutError:
            await ticking.tick()
